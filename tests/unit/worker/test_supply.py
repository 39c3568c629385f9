"""The prefetch counts follow the measured times."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from leveret.errors import BrokerUnavailable
from leveret.worker import supply
from leveret.worker.intake import Intake
from leveret.worker.pace import Pace
from leveret.worker.supply import Supply


class Consumers:
    """An intake that only notes the counts it is to have."""

    def __init__(self) -> None:
        self.counts: list[int] = [2]
        self.is_broken = False

    async def set_counts(self, counts: Sequence[int]) -> None:
        """Note them."""
        if self.is_broken:
            raise BrokerUnavailable("gone")
        self.counts = list(counts)


def observe(pace: Pace, runtime_s: float, times: int) -> None:
    """Let tasks of one length run."""
    for _ in range(times):
        pace.observe(runtime_s)


async def look(one: Supply, consumers: Consumers, times: int = 1) -> list[int]:
    """Look at the counts, let what follows happen, and return what they are."""
    for _ in range(times):
        one.look(cast(Intake, consumers))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return consumers.counts


async def test_counts_grow_at_once_and_shrink_when_it_has_been_right_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short tasks add consumers at the next look; a long one takes them back after several looks that agree."""
    monkeypatch.setattr(supply, "_LOOK_EVERY_S", 0.0)
    pace, consumers = Pace(), Consumers()
    one = Supply(multiplier=None, slots=2, pace=pace)
    assert await look(one, consumers) == [2]
    observe(pace, 0.000_02, 1000)
    assert await look(one, consumers) == [2, 14, 112, 872]
    observe(pace, 1.0, 1)
    assert await look(one, consumers, times=4) == [2, 14, 112, 872]
    assert await look(one, consumers) == [2]


async def test_between_two_looks_nothing_is_asked() -> None:
    """Looking costs nothing when it has just been done."""
    pace, consumers = Pace(), Consumers()
    one = Supply(multiplier=None, slots=2, pace=pace)
    await look(one, consumers)
    observe(pace, 0.000_02, 1000)
    assert await look(one, consumers) == [2]


async def test_a_multiplier_fixes_the_count() -> None:
    """With ``worker_prefetch_multiplier`` nothing is measured."""
    pace, consumers = Pace(), Consumers()
    observe(pace, 0.000_02, 1000)
    one = Supply(multiplier=4, slots=2, pace=pace)
    assert one.counts() == [8]
    assert await look(one, consumers) == [2]


async def test_a_connection_that_goes_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next connection begins with the right counts."""
    monkeypatch.setattr(supply, "_LOOK_EVERY_S", 0.0)
    pace, consumers = Pace(), Consumers()
    consumers.is_broken = True
    observe(pace, 0.000_02, 1000)
    one = Supply(multiplier=None, slots=2, pace=pace)
    assert await look(one, consumers, times=3) == [2]
    assert one.counts() == [2, 14, 112, 872]
    one.look(None)
