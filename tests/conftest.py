"""Fixtures of all tests: the brokers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.support.brokers import Broker
from tests.support.embedded import EmbeddedBroker
from tests.support.rabbitmq import RabbitMQ, missing_parts

_vhost_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the embedded broker to fail what it is marked not to do yet; once it does, the mark has to go."""
    for item in items:
        mark = item.get_closest_marker("not_yet")
        parameters = getattr(item, "callspec", None)
        if mark is not None and parameters is not None and parameters.params.get("broker") == "embedded":
            item.add_marker(pytest.mark.xfail(reason=f"the embedded broker does not {mark.args[0]} yet", strict=True))


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """Run one real RabbitMQ for the whole session; skip where it is not installed, fail there in CI."""
    if missing := missing_parts():
        reason = f"RabbitMQ is not installed (missing: {', '.join(missing)}); `make setup-test` installs it, as root or with sudo"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    node = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """Run one embedded broker, as a process, for the whole session."""
    broker = EmbeddedBroker(tmp_path_factory.mktemp("embedded"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def rabbitmq_vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """Name an empty vhost of RabbitMQ that only this test uses."""
    rabbitmq.start()  # a test may have killed it
    vhost = f"test-{next(_vhost_numbers)}"
    rabbitmq.add_vhost(vhost)
    yield vhost
    rabbitmq.start()
    rabbitmq.delete_vhost(vhost)


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ, rabbitmq_vhost: str) -> str:
    """Return the URL of an empty vhost of RabbitMQ."""
    return rabbitmq.url(rabbitmq_vhost)


@pytest.fixture
def embedded_url(embedded_broker: EmbeddedBroker) -> str:
    """Return the URL of the embedded broker; other tests use it too, so make names of your own."""
    embedded_broker.start()  # a test may have killed it
    return embedded_broker.url()


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Run the test once on each broker."""
    if request.param == "embedded":
        request.getfixturevalue("embedded_url")
        return Broker("embedded", request.getfixturevalue("embedded_broker"), "/")
    vhost = request.getfixturevalue("rabbitmq_vhost")
    return Broker("rabbitmq", request.getfixturevalue("rabbitmq"), vhost)


@pytest.fixture
def broker_url(broker: Broker) -> str:
    """Return the URL of :func:`broker`."""
    return broker.url
