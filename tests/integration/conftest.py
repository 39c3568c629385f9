"""Fixtures of the integration tests: workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Broker
from tests.support.worker import Workshop

MakeWorkshop = Callable[..., Workshop]


@pytest.fixture
def make_workshop(broker: Broker, tmp_path: Path) -> Iterator[MakeWorkshop]:
    """Give a function that makes a workshop with settings of the test's own."""
    made: list[Workshop] = []

    def make(**settings: object) -> Workshop:
        made.append(Workshop(tmp_path, broker.url, broker.name("jobs"), settings))
        return made[-1]

    yield make
    for workshop in made:
        workshop.close()


@pytest.fixture
def workshop(make_workshop: MakeWorkshop) -> Workshop:
    """Make a workshop with the settings as they are."""
    return make_workshop()
