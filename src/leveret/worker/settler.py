"""The last steps of an attempt, in order: store the result, publish what follows and await its confirm, settle the delivery.

Whoever dies between two steps leaves a delivery that the broker gives out again: work is repeated, never lost. An attempt one
of whose steps fails goes back to its queue after ``STEP_PAUSE_S``, which keeps a full disk from becoming a busy loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Final

from leveret.app.executed import ExecutedTask
from leveret.clock import Clock
from leveret.errors import LeveretError
from leveret.pools.process import Exit
from leveret.tasks.outcomes import Succeeded, Unrunnable
from leveret.tasks.raw_header import peek
from leveret.worker.attempt import Attempt
from leveret.worker.connection import BrokerConnection
from leveret.worker.crashes import crash_of, lost_task
from leveret.worker.followups import FollowUps
from leveret.worker.log_lines import line_of, traceback_of
from leveret.worker.ready import AppFacts, Policy
from leveret.worker.settlement import Ack, Reject, Settlement, settlement
from leveret.worker.sinks import ResultSink

__all__ = ["STEP_PAUSE_S", "Settler"]

logger = logging.getLogger("leveret.worker")

STEP_PAUSE_S: Final = 1.0
_ACK: Final = Ack()
_REQUEUE: Final = Reject(requeue=True)


class Settler:
    """Takes attempts that are over through their last steps; the number under way is bounded by the prefetch counts."""

    def __init__(
        self, facts: AppFacts, *, connection: BrokerConnection, sink: ResultSink, follow_ups: FollowUps, clock: Clock
    ) -> None:
        self._facts = facts
        self._connection = connection
        self._sink = sink
        self._follow_ups = follow_ups
        self._clock = clock
        self._logs_debug = logger.isEnabledFor(logging.DEBUG)
        self._some_are_early = not facts.policy.acks_late or any(not policy.acks_late for policy in facts.policies.values())
        self._under_way: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------ what comes in

    def handed(self, attempts: Iterable[Attempt]) -> None:
        """Acknowledge now those whose task is acknowledged early."""
        if self._some_are_early:
            for attempt in attempts:
                if not attempt.is_settled and not self._policy(attempt).acks_late and not self._is_void(attempt):
                    self._settle(attempt, _ACK)
                    attempt.is_settled = True

    def reported(self, reports: Sequence[tuple[Attempt, ExecutedTask]]) -> None:
        """Take attempts through their last steps: successes together, everything else each on its own."""
        successes: list[tuple[Attempt, ExecutedTask]] = []
        for attempt, executed in reports:
            if type(executed.outcome) is not Succeeded:
                self._begin(self._finish(attempt, executed))
            elif executed.meta is None:
                self._settle(attempt, _ACK)
                if self._logs_debug:
                    _log(executed)
            else:
                successes.append((attempt, executed))
        if successes:
            self._begin(self._finish_successes(successes))

    def crashed(self, attempt: Attempt, exit_: Exit) -> None:
        """Take an attempt further whose process died."""
        self._begin(self._finish_crashed(attempt, exit_))

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Give attempts back to their queues, uncounted: they were not run to their end."""
        for attempt in attempts:
            if attempt.is_settled:  # early: the broker has forgotten it, so its queue gets a copy
                self._begin(self._send_copy(attempt))
            else:
                self._settle(attempt, _REQUEUE)

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing is under way any more, or the time is over."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=timeout_s)
            if late:
                logger.warning("%d results or messages are still unconfirmed; their tasks will run again", len(late))
            for task in late:
                task.cancel()

    # ------------------------------------------------------------------------------------------ the steps

    async def _finish_successes(self, reports: Sequence[tuple[Attempt, ExecutedTask]]) -> None:
        try:
            await self._sink.put([executed for _, executed in reports])
        except (LeveretError, TimeoutError) as error:
            await self._put_off([attempt for attempt, _ in reports], f"storing {len(reports)} result(s) failed: {error}")
            return
        for attempt, executed in reports:
            self._settle(attempt, _ACK)
            if self._logs_debug:
                _log(executed)

    async def _finish(self, attempt: Attempt, executed: ExecutedTask) -> None:
        outcome = executed.outcome
        kept = ""
        try:
            if executed.meta is not None:
                await self._sink.put([executed])
            if self._is_void(attempt):
                self._tell_void(attempt)
                return
            for each in executed.follow_ups:
                await self._follow_ups.send_later(each.queue, each.delay_s, each.header, each.body)
            if isinstance(outcome, Unrunnable):
                kept = f"; kept in queue {await self._follow_ups.park(attempt.queue, attempt.header, attempt.body)}"
        except (LeveretError, TimeoutError) as error:
            await self._put_off([attempt], f"task {executed.task_name}[{executed.task_id}]: finishing it failed: {error}")
            return
        self._settle(attempt, settlement(outcome, acks_failures=self._policy(attempt).acks_failures))
        _log(executed, kept)

    async def _finish_crashed(self, attempt: Attempt, exit_: Exit) -> None:
        if self._is_void(attempt):
            self._tell_void(attempt)
            return
        crash = crash_of(attempt.header, limit=self._facts.crash_limit)
        policy = self._policy(attempt)
        if attempt.is_settled or not policy.reruns_when_lost or crash.crashes >= self._facts.crash_limit:
            crashes, now_s = crash.crashes, self._clock.wall_s()
            await self._finish(attempt, lost_task(attempt.header, attempt.body, exit_, crashes=crashes, now_s=now_s))
            return
        task, task_id = peek(attempt.header)
        logger.warning(
            "task %s[%s]: its process died (%s); it will run again (crash %d of %d)",
            task,
            task_id,
            exit_,
            crash.crashes,
            self._facts.crash_limit,
        )
        try:
            await self._follow_ups.send_again(attempt.queue, crash.header, attempt.body)
        except (LeveretError, TimeoutError) as error:
            await self._put_off([attempt], f"task {task}[{task_id}]: counting its crash failed: {error}")
            return
        self._settle(attempt, _ACK)

    async def _send_copy(self, attempt: Attempt) -> None:
        task, task_id = peek(attempt.header)
        try:
            await self._follow_ups.send_again(attempt.queue, attempt.header, attempt.body)
        except (LeveretError, TimeoutError) as error:
            # Acknowledged early is at most once; that is what it means.
            logger.error("task %s[%s] was acknowledged early and is lost: %s", task, task_id, error)

    async def _put_off(self, attempts: Sequence[Attempt], why: str) -> None:
        logger.error("%s; back to the queue in %.0f s", why, STEP_PAUSE_S)
        await asyncio.sleep(STEP_PAUSE_S)
        self.give_back(attempt for attempt in attempts if not attempt.is_settled)

    # ------------------------------------------------------------------------------------------ the last one

    def _settle(self, attempt: Attempt, decision: Settlement) -> None:
        if attempt.is_settled:
            return
        channel = self._connection.channel_of(attempt.generation)
        if channel is None:
            self._tell_void(attempt)
        elif isinstance(decision, Ack):
            channel.ack(attempt.delivery_tag)
        else:
            channel.nack(attempt.delivery_tag, requeue=decision.requeue)

    def _is_void(self, attempt: Attempt) -> bool:
        """Tell whether the broker has taken the delivery back, with its connection.

        What follows from it then follows from the next delivery of the message: done twice, it would never end.
        """
        return not attempt.is_settled and self._connection.channel_of(attempt.generation) is None

    def _tell_void(self, attempt: Attempt) -> None:
        task, task_id = peek(attempt.header)
        logger.info("task %s[%s] came on a connection that is gone: the broker will deliver it again", task, task_id)

    def _policy(self, attempt: Attempt) -> Policy:
        policies = self._facts.policies
        if not policies:
            return self._facts.policy
        return policies.get(peek(attempt.header)[0] or "", self._facts.policy)

    def _begin(self, steps: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(steps)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not one of those the steps expect: the delivery would be held for ever, so whoever watches the loop must know.
            task.get_loop().call_exception_handler({"message": "settling a delivery failed", "exception": error})


def _log(executed: ExecutedTask, more: str = "") -> None:
    level, text = line_of(executed)
    logger.log(level, "task %s[%s] %s%s%s", executed.task_name, executed.task_id, text, more, traceback_of(executed))
