"""The last steps of an attempt, and their order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from leveret.app.executed import ExecutedTask, FollowUp
from leveret.clock import SystemClock
from leveret.errors import PublishNacked, StorageError
from leveret.pools.process import Exit
from leveret.tasks.message import TaskMessage, encode
from leveret.tasks.outcomes import Failed, NotDue, Outcome, Rejected, RetryAt, Succeeded, Unrunnable
from leveret.worker import settler
from leveret.worker.attempt import Attempt
from leveret.worker.connection import BrokerConnection
from leveret.worker.followups import FollowUps
from leveret.worker.ready import AppFacts, Policy
from leveret.worker.settler import Settler
from tests.unit.worker.attempts import attempt

POLICY = Policy(acks_late=True, acks_failures=False, reruns_when_lost=True)


class Steps:
    """Everything a settler does outside itself, noted in order: result sink, follow-ups, connection and channel in one."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: Exception | None = None
        self.generation = 1
        self.stored = asyncio.Event()
        self.stored.set()

    async def put(self, tasks: Sequence[ExecutedTask]) -> None:
        """Store results, once the test allows it."""
        await self.stored.wait()
        if self.failing is not None:
            raise self.failing
        self.done.append(f"store {len(tasks)}")

    async def close(self) -> None:
        """Close nothing."""

    async def send_later(self, queue: str, delay_s: float, header: bytes, body: bytes) -> None:
        """Publish a delayed message."""
        self.done.append(f"send to {queue} in {delay_s:g}")

    async def send_again(self, queue: str, header: bytes, body: bytes) -> None:
        """Publish a copy."""
        if self.failing is not None:
            raise self.failing
        self.done.append(f"send to {queue}")

    async def park(self, queue: str, header: bytes, body: bytes) -> str:
        """Publish into the parking queue."""
        self.done.append(f"park {queue}")
        return f"{queue}.parked"

    def channel_of(self, generation: int) -> Steps | None:
        """Give the channel of a living generation."""
        return self if generation == self.generation else None

    def ack(self, delivery_tag: int) -> None:
        """Settle."""
        self.done.append(f"ack {delivery_tag}")

    def nack(self, delivery_tag: int, *, requeue: bool) -> None:
        """Settle."""
        self.done.append(f"nack {delivery_tag} requeue={requeue}")


def make(steps: Steps, policy: Policy = POLICY, **policies: Policy) -> Settler:
    """Make a settler of these steps."""
    facts = AppFacts(
        app_name="a",
        pid=1,
        broker_url="",
        result_backend=None,
        result_expires_s=1.0,
        connect_timeout_s=1.0,
        heartbeat_s=0,
        concurrency=None,
        prefetch_multiplier=None,
        shutdown_timeout_s=1.0,
        crash_limit=2,
        queue_max_priority=None,
        queues=[],
        tasks=[],
        policy=policy,
        policies=policies,
    )
    return Settler(
        facts,
        connection=cast(BrokerConnection, steps),
        sink=steps,
        follow_ups=cast(FollowUps, steps),
        clock=SystemClock(),
    )


def executed(outcome: Outcome, *, meta: bytes | None = b"{}", follow_ups: Sequence[FollowUp] = ()) -> ExecutedTask:
    """Make what a child reports."""
    return ExecutedTask(outcome, "id", "t", 0.1, meta, "replies", "id", list(follow_ups))


def task_attempt(number: int, **changes: object) -> Attempt:
    """Make an attempt of a real message of task ``t``."""
    made = attempt(number)
    made.header, made.body = encode(TaskMessage("id", "t", **changes))  # type: ignore[arg-type]  # fields by name
    return made


@pytest.mark.parametrize(
    ("outcome", "follow_ups", "steps"),
    [
        (Succeeded(), (), ["store 1", "ack 1"]),
        (Failed("E", "m"), (), ["store 1", "nack 1 requeue=False"]),
        (RetryAt(2.0, 1, "E", "m"), (FollowUp(b"", b"", "q", 2.0),), ["store 1", "send to q in 2", "ack 1"]),
        (NotDue(9.0), (FollowUp(b"", b"", "q", 9.0),), ["store 1", "send to q in 9", "ack 1"]),
        (Unrunnable("NotRegistered", "m"), (), ["store 1", "park celery", "ack 1"]),
        (Rejected(True, ""), (), ["store 1", "nack 1 requeue=True"]),
    ],
)
async def test_result_then_follow_ups_then_settlement(outcome: Outcome, follow_ups: Sequence[FollowUp], steps: list[str]) -> None:
    """The order of the steps is the guarantee: dying between two repeats work and never loses it."""
    noted = Steps()
    made = make(noted)
    made.reported([(attempt(1), executed(outcome, follow_ups=follow_ups))])
    await made.drain(5.0)
    assert noted.done == steps


async def test_nothing_is_settled_before_its_result_is_safe() -> None:
    """While the store works, the broker keeps the message; results of one batch are stored together."""
    noted = Steps()
    noted.stored.clear()
    made = make(noted)
    made.reported([(attempt(number), executed(Succeeded())) for number in (1, 2, 3)])
    await asyncio.sleep(0)
    assert noted.done == []
    noted.stored.set()
    await made.drain(5.0)
    assert noted.done == ["store 3", "ack 1", "ack 2", "ack 3"]


async def test_a_task_without_a_result_is_settled_at_once() -> None:
    """Where nothing is to be stored nothing is waited for."""
    noted = Steps()
    make(noted).reported([(attempt(1), executed(Succeeded(), meta=None))])
    assert noted.done == ["ack 1"]


async def test_a_result_that_cannot_be_stored_gives_the_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause the message goes back to its queue: the work is repeated, not lost."""
    monkeypatch.setattr(settler, "STEP_PAUSE_S", 0.0)
    noted = Steps()
    noted.failing = StorageError("disk full")
    made = make(noted)
    made.reported([(attempt(1), executed(Succeeded())), (attempt(2), executed(Failed("E", "m")))])
    await made.drain(5.0)
    assert sorted(noted.done) == ["nack 1 requeue=True", "nack 2 requeue=True"]


@pytest.mark.parametrize("outcome", [Succeeded(), RetryAt(2.0, 1, "E", "m"), Unrunnable("NotRegistered", "m")])
async def test_nothing_but_the_result_comes_of_a_delivery_of_a_dead_connection(outcome: Outcome) -> None:
    """Its tag means nothing on the new connection, and what would follow from it follows from the next delivery."""
    noted = Steps()
    noted.generation = 2
    made = make(noted)
    made.reported([(attempt(1, generation=1), executed(outcome, follow_ups=[FollowUp(b"", b"", "q", 2.0)]))])
    made.crashed(task_attempt(2), Exit(1, -9))
    await made.drain(5.0)
    assert noted.done == ["store 1"]


async def test_an_error_nobody_foresaw_is_told_to_the_loop() -> None:
    """A delivery whose steps broke off would be held for ever; the worker must hear of it at once."""
    told = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: told.set())
    noted = Steps()
    noted.failing = KeyError("a bug")
    made = make(noted)
    made.reported([(attempt(1), executed(Succeeded()))])
    await asyncio.wait_for(told.wait(), 5.0)


async def test_early_acknowledgement_comes_with_the_handing_over() -> None:
    """A task with ``acks_late=False`` is acknowledged when a child gets it, and never again."""
    noted = Steps()
    made = make(noted, t=Policy(acks_late=False, acks_failures=False, reruns_when_lost=True))
    early = task_attempt(1)
    made.handed([early])
    assert noted.done == ["ack 1"]
    made.reported([(early, executed(Failed("E", "m")))])
    await made.drain(5.0)
    assert noted.done == ["ack 1", "store 1"]


async def test_what_was_acknowledged_early_goes_back_as_a_copy() -> None:
    """The broker has forgotten the delivery, so a task that was not started after all is published again."""
    noted = Steps()
    made = make(noted, t=Policy(acks_late=False, acks_failures=False, reruns_when_lost=True))
    early = task_attempt(1)
    made.handed([early])
    made.give_back([early, task_attempt(2)])
    await made.drain(5.0)
    assert noted.done == ["ack 1", "nack 2 requeue=True", "send to celery"]


async def test_a_crash_is_counted_in_a_copy_before_the_original_is_acknowledged() -> None:
    """Below the limit the message runs again, its crashes being one more; at the limit it is given up."""
    noted = Steps()
    made = make(noted)
    made.crashed(task_attempt(1), Exit(1, -9))
    await made.drain(5.0)
    assert noted.done == ["send to celery", "ack 1"]
    noted.done.clear()
    made.crashed(task_attempt(2, crashes=1), Exit(1, -9))
    await made.drain(5.0)
    assert noted.done == ["store 1", "nack 2 requeue=False"]


async def test_a_crash_that_cannot_be_counted_gives_the_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the broker does not take the copy, the original is not acknowledged."""
    monkeypatch.setattr(settler, "STEP_PAUSE_S", 0.0)
    noted = Steps()
    noted.failing = PublishNacked("full")
    made = make(noted)
    made.crashed(task_attempt(1), Exit(1, -9))
    await made.drain(5.0)
    assert noted.done == ["nack 1 requeue=True"]
