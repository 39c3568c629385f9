"""Who is handed what, and when it is taken back."""

from __future__ import annotations

import asyncio

from leveret.app.executed import ExecutedTask
from leveret.pools.process import Exit
from leveret.pools.wire import Job
from leveret.tasks.outcomes import Succeeded
from leveret.worker.attempt import Attempt
from leveret.worker.dispatch import Dispatcher
from leveret.worker.pace import AHEAD_COUNT_MAX
from tests.unit.worker.attempts import attempt


class Child:
    """A child that only notes what is said to it."""

    def __init__(self) -> None:
        self.handed: list[int] = []
        self.recalled = asyncio.Event()

    def hand(self, jobs: list[Job]) -> None:
        """Note the jobs' numbers."""
        self.handed += [job.number for job in jobs]

    def recall(self) -> None:
        """Note the question."""
        self.recalled.set()


class Heard:
    """What the dispatcher says to the worker."""

    def __init__(self) -> None:
        self.reported: list[int] = []
        self.crashed: list[tuple[int, int]] = []
        self.unwanted: list[int] = []

    def attempts_handed(self, attempts: list[Attempt]) -> None:
        """Nothing to note."""

    def attempts_reported(self, reports: list[tuple[Attempt, ExecutedTask]]) -> None:
        """Note the numbers."""
        self.reported += [each.number for each, _ in reports]

    def attempts_unwanted(self, attempts: list[Attempt]) -> None:
        """Note the numbers."""
        self.unwanted += [each.number for each in attempts]

    def attempt_crashed(self, attempt: Attempt, exit_: Exit) -> None:
        """Note the number and the exit."""
        self.crashed.append((attempt.number, exit_.returncode))


def executed(runtime_s: float = 1.0) -> ExecutedTask:
    """Make a success."""
    return ExecutedTask(Succeeded(), "id", "t", runtime_s)


async def start(children: int, *, short_tasks: bool = False) -> tuple[Dispatcher, Heard, list[Child]]:
    """Make a dispatcher with free children; with ``short_tasks`` it has learnt that tasks take 20 µs."""
    heard = Heard()
    dispatcher = Dispatcher(heard)
    crew = [Child() for _ in range(children)]
    for child in crew:
        dispatcher.child_ready(child)
    if short_tasks:
        for _ in range(50):
            dispatcher.pace.observe(0.000_02)
    return dispatcher, heard, crew


async def turn() -> None:
    """Let the event loop turn once."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_free_child_has_one_attempt() -> None:
    """Each free child gets one attempt; the others wait until a child has answered, higher priorities first."""
    dispatcher, heard, (one, two) = await start(2)
    for number, priority in [(1, 0), (2, 0), (3, 0), (4, 7)]:
        dispatcher.add(attempt(number, priority=priority))
    await turn()
    assert (one.handed, two.handed) == ([4], [1])
    dispatcher.child_answered(two, [(1, executed())])
    assert (two.handed, heard.reported) == ([1, 2], [1])
    dispatcher.child_answered(one, [(4, executed())])
    assert (one.handed, heard.reported) == ([4, 3], [1, 4])
    assert dispatcher.held == 2


async def test_short_tasks_are_shared_out_evenly_in_batches() -> None:
    """While tasks are short, what is there is dealt out in equal parts, up to the limit a child may hold."""
    dispatcher, _, (one, two) = await start(2, short_tasks=True)
    for number in range(10):
        dispatcher.add(attempt(number))
    await turn()
    assert (one.handed, two.handed) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    for number in range(10, 10 + 3 * AHEAD_COUNT_MAX):
        dispatcher.add(attempt(number))
    await turn()
    assert len(one.handed) == len(two.handed) == AHEAD_COUNT_MAX
    assert dispatcher.waiting == AHEAD_COUNT_MAX + 10


async def test_what_waits_in_a_silent_child_is_recalled() -> None:
    """A child that is silent with more than one attempt is asked for the others; they go to whoever is free, in order."""
    dispatcher, heard, (one,) = await start(1, short_tasks=True)
    for number in range(4):
        dispatcher.add(attempt(number))
    await turn()
    assert one.handed == [0, 1, 2, 3]
    await asyncio.wait_for(one.recalled.wait(), 5.0)
    other = Child()
    dispatcher.child_ready(other)
    dispatcher.child_recalled(one, [2, 3])
    await turn()
    assert other.handed == [2]
    assert dispatcher.waiting == 1
    dispatcher.child_answered(one, [(0, executed()), (1, executed())])
    assert one.handed == [0, 1, 2, 3, 3]
    assert heard.reported == [0, 1]


async def test_a_crash_costs_the_running_attempt_only() -> None:
    """The attempt that ran is reported with the exit; those behind it go back to their places, uncounted."""
    dispatcher, heard, (one,) = await start(1, short_tasks=True)
    for number in range(1, 4):
        dispatcher.add(attempt(number))
    await turn()
    dispatcher.add(attempt(4))
    dispatcher.child_lost(one, Exit(1, -9), job_running=1)
    assert heard.crashed == [(1, -9)]
    successor = Child()
    dispatcher.child_ready(successor)
    await turn()
    assert successor.handed == [2, 3, 4]


async def test_a_death_between_attempts_costs_none() -> None:
    """When nothing was running, nothing is counted, and everything handed over is handed to another child."""
    dispatcher, heard, (one,) = await start(1)
    dispatcher.add(attempt(1))
    await turn()
    dispatcher.child_lost(one, Exit(1, -9), job_running=0)
    other = Child()
    dispatcher.child_ready(other)
    await turn()
    assert (heard.crashed, other.handed) == ([], [1])


async def test_draining_hands_out_nothing_and_gives_up_everything_unstarted() -> None:
    """On shutdown nothing more is handed out, what was not started is given up at once, and the end of what runs is heard."""
    dispatcher, heard, (one,) = await start(1, short_tasks=True)
    for number in range(1, 4):
        dispatcher.add(attempt(number))
    await turn()
    dispatcher.add(attempt(4))
    dispatcher.drain()
    assert one.recalled.is_set()
    assert heard.unwanted == [4]
    dispatcher.add(attempt(5))
    dispatcher.child_recalled(one, [2, 3])
    await turn()
    assert (one.handed, heard.unwanted) == ([1, 2, 3], [4, 5, 2, 3])
    emptied = asyncio.ensure_future(dispatcher.emptied())
    await turn()
    assert not emptied.done()
    dispatcher.child_answered(one, [(1, executed())])
    await asyncio.wait_for(emptied, 5.0)


async def test_what_a_dead_connection_delivered_is_dropped_unless_it_runs() -> None:
    """Waiting and recalled attempts of a dead generation vanish; the running one is reported; newer ones are run."""
    dispatcher, heard, (one,) = await start(1, short_tasks=True)
    for number in range(1, 4):
        dispatcher.add(attempt(number))
    await turn()
    dispatcher.add(attempt(4))
    early = attempt(5)
    early.is_settled = True
    dispatcher.add(early)
    dispatcher.forget(1)
    assert one.recalled.is_set()
    assert dispatcher.waiting == 1
    dispatcher.child_recalled(one, [2, 3])
    dispatcher.add(attempt(6, generation=2))
    dispatcher.child_answered(one, [(1, executed())])
    assert heard.reported == [1]
    assert one.handed == [1, 2, 3, 5]
    dispatcher.child_answered(one, [(5, executed())])
    assert one.handed == [1, 2, 3, 5, 6]


async def test_a_job_number_nobody_handed_out_changes_nothing() -> None:
    """An answer to an attempt the child does not have is not an answer."""
    dispatcher, heard, (one,) = await start(1)
    dispatcher.child_answered(one, [(99, executed())])
    assert heard.reported == []
