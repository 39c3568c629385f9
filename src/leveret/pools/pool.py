"""A pool: children kept at their number, started together, replaced when they die, with patience when they cannot start.

::

    each of the ``size`` places:   start ──READY──▶ works ──death──▶ start (at once)
                                     └──cannot start──▶ start again after 0.5, 1, 2, ... 30 s

A pool none of whose children could ever start gives up after the first attempt of each: what stops them (an import error,
mostly) will not go away by itself. One that has worked before gives up after ``START_ATTEMPTS_MAX`` attempts in each place.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol

import msgspec

from leveret.pools.child import Handles
from leveret.pools.process import ChildProcess, ChildState, Exit, Report

__all__ = ["Pool", "PoolEvents", "StartProblem"]

START_ATTEMPTS_MAX: Final = 5
RESTART_DELAY_MIN_S: Final = 0.5
RESTART_DELAY_MAX_S: Final = 30.0
# A child that dies this soon without having been given anything counts as one that cannot start.
_SETTLED_AFTER_S: Final = 1.0


class StartProblem(NamedTuple):
    """Why a child could not start: what it said, if it came to say anything, and how it ended."""

    payload: bytes | None
    exit: Exit | None
    was_ready: bool = False
    """It had started, but died at once without having been given anything."""


class PoolEvents(Protocol[Report]):
    """What the owner of a pool hears."""

    def child_ready(self, child: ChildProcess[Report], payload: bytes) -> None:
        """Hear that a child has started and can be handed jobs."""
        ...

    def child_answered(self, child: ChildProcess[Report], answers: list[tuple[int, Report]]) -> None:
        """Hear that jobs are done: pairs of (number, report)."""
        ...

    def child_recalled(self, child: ChildProcess[Report], numbers: list[int]) -> None:
        """Hear the answer to one recall: these jobs were not started and never will be by this child."""
        ...

    def child_lost(self, child: ChildProcess[Report], exit_: Exit, job_running: int) -> None:
        """Hear that a child that had been ready is dead; its successor is on its way unless the pool is stopping."""
        ...

    def child_not_started(self, problem: StartProblem, *, retry_in_s: float | None) -> None:
        """Hear that a child could not start; ``None``: no child can, and the pool has given up."""
        ...


@dataclass(slots=True, eq=False)
class _Place:
    """One of the ``size`` places; its child comes and goes, its count of failed starts stays."""

    attempts_failed: int = 0
    ready_at_s: float | None = None
    said: bytes | None = None
    restart: asyncio.TimerHandle | None = None
    is_surplus: bool = False


class Pool(Generic[Report]):
    """``size`` children of one command."""

    def __init__(
        self,
        command: Callable[[Handles], Sequence[str]],
        *,
        size: int,
        answers: msgspec.msgpack.Decoder[list[tuple[int, Report]]],
        events: PoolEvents[Report],
    ) -> None:
        self._command = command
        self._answers = answers
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._places = [_Place() for _ in range(size)]
        self._children: dict[ChildProcess[Report], _Place] = {}
        self._has_worked = False
        self._stopping = False
        self._empty = asyncio.Event()

    @property
    def children(self) -> list[ChildProcess[Report]]:
        """The children that are ready."""
        return [child for child in self._children if child.state is ChildState.READY]

    def start(self) -> None:
        """Start all children at once; events follow."""
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for place in self._places:
            self._start(place)

    def resize(self, size: int) -> None:
        """Start children, or let some leave once they have finished what they have, until there are ``size``."""
        for place in self._places[size:]:
            place.is_surplus = True
            self._cancel_restart(place)
        for child in [child for child, place in self._children.items() if place.is_surplus]:
            child.leave()
        del self._places[size:]
        for _ in range(size - len(self._places)):
            self._places.append(_Place())
            self._start(self._places[-1])

    async def stop(self, timeout_s: float) -> None:
        """Let the children finish what they have and leave; kill those that are still there after ``timeout_s``."""
        self._end_restarts()
        for child in list(self._children):
            child.leave()
        try:
            await asyncio.wait_for(self._emptied(), timeout_s)
        except TimeoutError:
            self.kill()
            await self._emptied()
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def kill(self) -> None:
        """Kill all children at once, and replace none; each is heard of as ``child_lost``."""
        self._end_restarts()
        for child in list(self._children):
            child.kill()

    # What the children say.

    def child_ready(self, child: ChildProcess[Report], payload: bytes) -> None:
        """Note that a place has a working child, and pass it on."""
        self._children[child].ready_at_s = self._loop.time()
        self._has_worked = True
        self._events.child_ready(child, payload)

    def child_failed(self, child: ChildProcess[Report], payload: bytes) -> None:
        """Keep what the child says until it has exited."""
        self._children[child].said = payload

    def child_answered(self, child: ChildProcess[Report], answers: list[tuple[int, Report]]) -> None:
        """Pass it on."""
        self._events.child_answered(child, answers)

    def child_recalled(self, child: ChildProcess[Report], numbers: list[int]) -> None:
        """Pass it on."""
        self._events.child_recalled(child, numbers)

    def child_exited(self, child: ChildProcess[Report], exit_: Exit, job_running: int) -> None:
        """Free the place and fill it again."""
        place = self._children.pop(child)
        ready_at_s, place.ready_at_s = place.ready_at_s, None
        if not self._children:
            self._empty.set()
        if ready_at_s is None:
            self._not_started(place, StartProblem(place.said, exit_))
            return
        self._events.child_lost(child, exit_, job_running)
        if self._stopping or place.is_surplus:
            return
        if job_running == 0 and self._loop.time() - ready_at_s < _SETTLED_AFTER_S:
            self._not_started(place, StartProblem(None, exit_, was_ready=True))
            return
        place.attempts_failed = 0
        self._start(place)

    def _start(self, place: _Place) -> None:
        place.restart = None
        place.said = None
        child = ChildProcess(self._command, answers=self._answers, events=self)
        try:
            child.start()
        except OSError as error:  # no process or memory to be had; the next attempt may find some
            self._not_started(place, StartProblem(str(error).encode(), None))
            return
        self._children[child] = place
        self._empty.clear()

    def _not_started(self, place: _Place, problem: StartProblem) -> None:
        if self._stopping or place.is_surplus:
            return
        place.attempts_failed += 1
        if self._is_hopeless():
            self._end_restarts()
            self._events.child_not_started(problem, retry_in_s=None)
            return
        delay_s = min(RESTART_DELAY_MIN_S * 2 ** (place.attempts_failed - 1), RESTART_DELAY_MAX_S)
        place.restart = self._loop.call_later(delay_s, self._start, place)
        self._events.child_not_started(problem, retry_in_s=delay_s)

    def _is_hopeless(self) -> bool:
        attempts_max = START_ATTEMPTS_MAX if self._has_worked else 1
        return all(place.ready_at_s is None and place.attempts_failed >= attempts_max for place in self._places)

    def _end_restarts(self) -> None:
        self._stopping = True
        for place in self._places:
            self._cancel_restart(place)

    def _cancel_restart(self, place: _Place) -> None:
        if place.restart is not None:
            place.restart.cancel()
            place.restart = None

    def _reap(self) -> None:
        for child in list(self._children):
            child.reap()

    async def _emptied(self) -> None:
        if self._children:
            await self._empty.wait()
