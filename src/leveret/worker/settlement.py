"""What becomes of a delivery, by the outcome of its task: a total function. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from leveret.tasks.outcomes import (
    Failed,
    Ignored,
    Lost,
    NotDue,
    Outcome,
    Rejected,
    RetryAt,
    Revoked,
    Succeeded,
    TimedOut,
    Unrunnable,
)

__all__ = ["Ack", "Reject", "Settlement", "settlement"]


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker forgets the message (basic.ack)."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The broker puts the message back into its queue, or gives it to the queue's dead-letter exchange, or drops it."""

    requeue: bool


Settlement: TypeAlias = Ack | Reject

_ACK = Ack()


def settlement(outcome: Outcome, *, acks_failures: bool) -> Settlement:
    """Decide how to settle a delivery once its result is stored and its follow-ups are confirmed.

    ``acks_failures`` is the setting ``task_acks_on_failure_or_timeout``: true forgets the message of a failed task, as Celery
    does; false hands it to the dead-letter exchange of its queue. The stored failure is the same.
    """
    match outcome:
        case Succeeded() | Ignored() | Revoked():
            return _ACK
        case RetryAt() | NotDue() | Unrunnable():  # its successor, or its copy in the parking queue, is confirmed
            return _ACK
        case Failed() | TimedOut() | Lost():
            return _ACK if acks_failures else Reject(requeue=False)
        case Rejected(requeue=requeue):
            return Reject(requeue=requeue)
        case _:
            assert_never(outcome)
