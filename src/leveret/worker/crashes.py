"""A crash of the process that ran a task: counted in the message's own header, so that every worker it comes to knows. PURE.

::

    crash n < task_crash_limit    a copy of the message that says n goes to the end of its queue, then this delivery is acked
    crash n = task_crash_limit    a failure is stored that says how the process ended, and the delivery is rejected

Quorum queues count deliveries, but not crashes: a worker that was merely restarted would count, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from leveret.app.executed import ExecutedTask
from leveret.errors import AMQPError, MessageError, WorkerLost
from leveret.pools.process import Exit
from leveret.results.meta import encode_failure
from leveret.tasks.decoding import decode
from leveret.tasks.message import TaskMessage
from leveret.tasks.outcomes import Lost
from leveret.tasks.raw_header import count_crash
from leveret.tasks.states import State

__all__ = ["Crash", "crash_of", "lost_task"]


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash of one message."""

    header: bytes
    """The content header that counts it."""
    crashes: int
    """Of this message, this one included."""


def crash_of(header: bytes, *, limit: int) -> Crash:
    """Count a crash; a header that cannot be decoded has reached the limit."""
    try:
        return Crash(*count_crash(header))
    except AMQPError:
        return Crash(header, limit)


def lost_task(header: bytes, body: bytes, exit_: Exit, *, crashes: int, now_s: float) -> ExecutedTask:
    """Return the report the dead child could not make: lost, with a failure to be stored for whoever waits for the result."""
    reason = f"the process that ran it {'died of' if exit_.returncode < 0 else 'left with'} {exit_}"
    outcome = Lost(crashes, reason)
    try:
        message = decode(header, body)
    except MessageError:
        return ExecutedTask(outcome, "", "")
    return ExecutedTask(
        outcome,
        message.id,
        message.task,
        meta=None if message.ignore_result else _failure(message, reason, crashes, now_s),
        reply_to=message.reply_to or "",
        correlation_id=message.correlation_id or message.id,
    )


def _failure(message: TaskMessage, reason: str, crashes: int, now_s: float) -> bytes:
    error = WorkerLost(f"{reason}; crash {crashes} of this message, which is not run again")
    return encode_failure(message.id, State.FAILURE, error, now_s=now_s, group_id=message.group, parent_id=message.parent_id)
