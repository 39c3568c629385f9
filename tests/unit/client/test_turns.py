"""Threads that share one socket by turns: one reads, the others sleep, and nobody is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from leveret.client.deadline import Deadline
from leveret.client.turns import Turns, Waiter
from leveret.clock import SystemClock
from tests.support.waiting import wait_until

PATIENCE_S = 10.0


def _deadline(timeout_s: float = PATIENCE_S) -> Deadline:
    return Deadline(timeout_s, SystemClock())


class _Wire:
    """What a test sends, read by whoever's turn it is."""

    def __init__(self) -> None:
        self.turns = Turns(self._block, self._take_in)
        self.readers: list[str] = []
        self.reading = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._actions: list[Callable[[], None]] = []

    def send(self, action: Callable[[], None]) -> None:
        self._actions.append(action)
        self._arrived.release()

    def wait(self, waiter: Waiter, deadline: Deadline) -> bool:
        with self.turns.lock:
            return self.turns.wait(waiter, deadline)

    def _block(self, timeout_s: float) -> bool:
        self.readers.append(threading.current_thread().name)
        self.reading.release()
        return self._arrived.acquire(timeout=timeout_s)

    def _take_in(self, came: bool) -> None:
        if came:
            self._actions.pop(0)()


class _Thread(threading.Thread):
    """Waits for one answer and keeps what came of it."""

    def __init__(self, wire: _Wire, name: str, deadline: Deadline) -> None:
        super().__init__(name=name)
        self.waiter = Waiter()
        self.in_time: bool | None = None
        self._wire = wire
        self._deadline = deadline
        self.start()

    def run(self) -> None:
        self.in_time = self._wire.wait(self.waiter, self._deadline)


def _follower(wire: _Wire, name: str, timeout_s: float = PATIENCE_S) -> _Thread:
    """Start a thread and return once it sleeps."""
    before = len(wire.turns._waiting)
    thread = _Thread(wire, name, _deadline(timeout_s))
    wait_until(lambda: len(wire.turns._waiting) > before, PATIENCE_S, f"{name} to sleep")
    return thread


def test_the_reader_wakes_whom_it_brings_the_answer() -> None:
    """One thread reads; an answer to another wakes that one, and the reader goes on reading."""
    wire = _Wire()
    first = _Thread(wire, "first", _deadline())
    wire.reading.acquire()
    second = _follower(wire, "second")
    wire.send(second.waiter.finish)
    second.join(PATIENCE_S)
    assert second.in_time
    wire.send(first.waiter.finish)
    first.join(PATIENCE_S)
    assert first.in_time
    assert set(wire.readers) == {"first"}


def test_a_reader_that_leaves_hands_over() -> None:
    """When the reader has its answer, a thread that still waits takes its turn."""
    wire = _Wire()
    first = _Thread(wire, "first", _deadline())
    wire.reading.acquire()
    second = _follower(wire, "second")
    wire.send(first.waiter.finish)
    first.join(PATIENCE_S)
    wire.reading.acquire()
    wire.send(second.waiter.finish)
    second.join(PATIENCE_S)
    assert (first.in_time, second.in_time) == (True, True)
    assert wire.readers == ["first", "second"]


def test_a_reader_out_of_time_hands_over() -> None:
    """A reader whose deadline has passed leaves without its answer; the others still get theirs."""
    wire = _Wire()
    first = _Thread(wire, "first", _deadline(0.2))
    wire.reading.acquire()
    second = _follower(wire, "second")
    first.join(PATIENCE_S)
    assert first.in_time is False
    wire.send(second.waiter.finish)
    second.join(PATIENCE_S)
    assert second.in_time


def test_a_sleeper_out_of_time_leaves_the_reader_alone() -> None:
    """A sleeping thread ends at its own deadline."""
    wire = _Wire()
    first = _Thread(wire, "first", _deadline())
    wire.reading.acquire()
    second = _follower(wire, "second", timeout_s=0.2)
    second.join(PATIENCE_S)
    assert second.in_time is False
    wire.send(first.waiter.finish)
    first.join(PATIENCE_S)
    assert first.in_time


def test_an_interrupted_reader_hands_over() -> None:
    """An exception while reading (Ctrl-C) ends that thread's wait and gives the turn away."""
    wire = _Wire()

    def interrupt() -> None:
        raise KeyboardInterrupt

    second: list[_Thread] = []

    def interrupt_once_second_sleeps() -> None:
        second.append(_follower(wire, "second"))
        wire.send(interrupt)

    helper = threading.Thread(target=interrupt_once_second_sleeps)
    wire.send(helper.start)
    with pytest.raises(KeyboardInterrupt):
        wire.wait(Waiter(), _deadline())
    helper.join(PATIENCE_S)
    wire.send(second[0].waiter.finish)
    second[0].join(PATIENCE_S)
    assert second[0].in_time


def test_only_the_first_outcome_counts() -> None:
    """A waiter that is finished stays as it is."""
    waiter = Waiter()
    waiter.finish()
    waiter.finish(error=None)
    assert waiter.done
    assert waiter.error is None


def test_no_time_is_no_wait() -> None:
    """A deadline that has passed lets nobody read."""
    wire = _Wire()
    assert wire.wait(Waiter(), _deadline(0.0)) is False
    assert wire.readers == []


def test_deadlines_are_bounded_both_ways() -> None:
    """A deadline can be narrowed and widened, and never has less than nothing left."""
    assert _deadline(-1.0).remaining_s() == 0.0
    assert _deadline(10.0).at_most(1.0).remaining_s() <= 1.0
    assert _deadline(1.0).at_most(10.0).remaining_s() <= 1.0
    assert _deadline(0.0).at_least(5.0).remaining_s() > 4.0
