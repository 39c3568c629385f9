"""Who runs what next: attempts wait in the local buffer, children with room are handed some, what waits too long is recalled.

A child holds one attempt, or a few more while tasks are short (``leveret.worker.pace``). A child that has been silent for
``RECALL_AFTER_S`` with more than one is on a longer task: the others are taken back, to be run elsewhere or in their turn.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from leveret.app.executed import ExecutedTask
from leveret.pools.process import Exit
from leveret.pools.wire import Job
from leveret.worker.attempt import Attempt
from leveret.worker.buffer import LocalBuffer
from leveret.worker.pace import LONG_S, Pace, ahead_count

__all__ = ["RECALL_AFTER_S", "Child", "DispatchEvents", "Dispatcher"]

RECALL_AFTER_S: Final = 0.02


class Child(Protocol):
    """What a child is to the dispatcher."""

    def hand(self, jobs: list[Job]) -> None:
        """Give it jobs, to run in this order after those it has."""
        ...

    def recall(self) -> None:
        """Ask for those it has not started."""
        ...


class DispatchEvents(Protocol):
    """What the dispatcher tells the worker."""

    def attempts_handed(self, attempts: list[Attempt]) -> None:
        """Hear that these are a child's now: the moment for early acknowledgement."""
        ...

    def attempts_reported(self, reports: list[tuple[Attempt, ExecutedTask]]) -> None:
        """Hear how these ended."""
        ...

    def attempts_unwanted(self, attempts: list[Attempt]) -> None:
        """Hear, while draining, of attempts that were not started and will not be."""
        ...

    def attempt_crashed(self, attempt: Attempt, exit_: Exit) -> None:
        """Hear that the child died while it ran this one."""
        ...


class _Crew:
    """One child and what it has, oldest first."""

    __slots__ = ("attempts", "heard_s", "is_recalling")

    def __init__(self, now_s: float) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.heard_s = now_s
        self.is_recalling = False


class Dispatcher:
    """The buffer, the children and what each of them has."""

    def __init__(self, events: DispatchEvents) -> None:
        self.pace = Pace()
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._buffer = LocalBuffer()
        self._crews: dict[Child, _Crew] = {}
        self._is_scheduled = False
        self._is_draining = False
        self._generation_dead = 0
        self._idle = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """The number of attempts in the buffer."""
        return len(self._buffer)

    @property
    def held(self) -> int:
        """The number of attempts the children have."""
        return sum(len(crew.attempts) for crew in self._crews.values())

    def add(self, attempt: Attempt) -> None:
        """Take a new attempt; it is handed out at the end of this loop turn, together with those that come in it."""
        if self._is_draining:
            self._events.attempts_unwanted([attempt])
            return
        self._buffer.add(attempt)
        if not self._is_scheduled:
            self._schedule()

    def forget(self, generation: int) -> None:
        """Drop what was not started of a generation that is dead: the broker delivers it again.

        What was acknowledged early stays; nobody else will run it.
        """
        self._generation_dead = generation
        self._put_back(self._buffer.take(len(self._buffer)))
        self._recall_all()

    def drain(self) -> None:
        """Hand out nothing any more, and ask for everything that was not started."""
        self._is_draining = True
        self._put_back(self._buffer.take(len(self._buffer)))
        self._recall_all()
        self._arm_watch()
        self._note_idle()

    async def emptied(self) -> None:
        """Wait, while draining, until no child has anything any more."""
        await self._idle.wait()

    def child_ready(self, child: Child) -> None:
        """Count on a child."""
        self._crews[child] = _Crew(self._loop.time())
        self._schedule()

    def child_answered(self, child: Child, answers: list[tuple[int, ExecutedTask]]) -> None:
        """Pass on what is done and refill the child."""
        crew = self._crews[child]
        crew.heard_s = self._loop.time()
        attempts = crew.attempts
        observe = self.pace.observe
        reports: list[tuple[Attempt, ExecutedTask]] = []
        for number, executed in answers:
            attempt = attempts.pop(number, None)
            if attempt is not None:  # else the child makes numbers up; nothing of ours depends on it
                reports.append((attempt, executed))
                observe(executed.runtime_s)
        self._dispatch()  # first: the child waits for it
        self._events.attempts_reported(reports)
        if self._is_draining:
            self._note_idle()

    def child_recalled(self, child: Child, numbers: list[int]) -> None:
        """Put what a child gave back into the buffer."""
        crew = self._crews[child]
        crew.is_recalling = False
        self._put_back([attempt for number in numbers if (attempt := crew.attempts.pop(number, None)) is not None])

    def child_lost(self, child: Child, exit_: Exit, job_running: int) -> None:
        """Report the attempt that was running as crashed, and put the others back: they were not started."""
        crew = self._crews.pop(child, None)
        if crew is None:
            return
        crashed = crew.attempts.pop(job_running, None)
        self._put_back(list(crew.attempts.values()))
        if crashed is not None:
            self._events.attempt_crashed(crashed, exit_)
        if self._is_draining:
            self._note_idle()

    def _put_back(self, attempts: list[Attempt]) -> None:
        """Take attempts that were not started to their old places, or drop them, or give them up."""
        alive = [each for each in attempts if each.generation > self._generation_dead or each.is_settled]
        if not alive:
            return
        if self._is_draining:
            self._events.attempts_unwanted(alive)
            return
        self._buffer.put_back(alive)
        self._schedule()

    def _note_idle(self) -> None:
        if not self.held:
            self._idle.set()

    def _recall_all(self) -> None:
        for child, crew in self._crews.items():
            self._recall(child, crew)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._dispatch_scheduled)

    def _dispatch_scheduled(self) -> None:
        self._is_scheduled = False
        self._dispatch()

    def _dispatch(self) -> None:
        """Share out the buffer: those with the least first, and no more each than an equal part of what is there."""
        if self._is_draining or not self._buffer:
            return
        ahead_max = ahead_count(self.pace)
        now_s = self._loop.time()
        crews = [
            (len(crew.attempts), child, crew)
            for child, crew in self._crews.items()
            if not crew.attempts or (len(crew.attempts) < ahead_max and now_s - crew.heard_s < LONG_S and not crew.is_recalling)
        ]
        crews.sort(key=_by_load)
        for place, (load, child, crew) in enumerate(crews):
            share = -(-len(self._buffer) // (len(crews) - place))
            attempts = self._buffer.take(min(share, ahead_max - load))
            if not attempts:
                return
            if not load:
                crew.heard_s = now_s
            self._hand(child, crew, attempts)
        if ahead_max > 1:
            self._arm_watch()

    def _hand(self, child: Child, crew: _Crew, attempts: list[Attempt]) -> None:
        held = crew.attempts
        jobs: list[Job] = []
        for attempt in attempts:
            held[attempt.number] = attempt
            jobs.append(Job(attempt.number, attempt.queue, attempt.redelivered, attempt.route, attempt.header, attempt.body))
        child.hand(jobs)
        self._events.attempts_handed(attempts)

    def _arm_watch(self) -> None:
        if self._watch is None:
            self._watch = self._loop.call_later(RECALL_AFTER_S, self._look_around)

    def _look_around(self) -> None:
        """Recall from the children that have been silent for long; look again while any of them could need it."""
        self._watch = None
        now_s = self._loop.time()
        must_watch = False
        for child, crew in self._crews.items():
            if len(crew.attempts) < 2:
                continue
            must_watch = True
            silence_s = now_s - crew.heard_s
            if silence_s >= RECALL_AFTER_S:
                self.pace.observe_running(silence_s)
                self._recall(child, crew)
        if must_watch:
            self._arm_watch()

    def _recall(self, child: Child, crew: _Crew) -> None:
        if len(crew.attempts) > 1 and not crew.is_recalling:
            crew.is_recalling = True
            child.recall()


def _by_load(crew: tuple[int, Child, _Crew]) -> int:
    return crew[0]
