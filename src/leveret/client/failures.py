"""How a published message can fail, in words; and which of several messages a reply code is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from leveret.amqp.methods import basic
from leveret.client.session import Publication
from leveret.errors import LeveretError, PreconditionFailed, PublishNacked, PublishUnconfirmed, ReplyError, Unroutable

__all__ = ["RESEND_ADVICE", "advise", "culprit", "nacked", "place", "unconfirmed", "unroutable"]

T = TypeVar("T")

RESEND_ADVICE: Final = (
    "it may or may not have been taken, so sending it again with the same id is safe only for a task that may run twice"
)

_DECLARE_ADVICE: Final = (
    "it was declared before, with other properties: declare it as it is (task_queues, task_queue_max_priority), "
    "or delete it once it is empty"
)


def advise(error: PreconditionFailed) -> None:
    """Add what to do to the message of a refused declaration; its reply text stays the broker's own."""
    if _DECLARE_ADVICE not in str(error):
        error.args = (f"{error}; {_DECLARE_ADVICE}",)


def place(publication: Publication[T]) -> str:
    """Return where a message was sent to."""
    _, exchange, routing_key, _, _ = publication
    return f"exchange {exchange!r} with routing key {routing_key!r}" if exchange else f"queue {routing_key!r}"


def unroutable(publication: Publication[T], method: basic.Return, broker: str) -> Unroutable:
    """Return the error of a message that came back."""
    answer = f"{method.reply_code} {method.reply_text}"
    return Unroutable(f"{broker} has no queue for a message to {place(publication)} and returned it ({answer})")


def nacked(publication: Publication[T], broker: str) -> PublishNacked:
    """Return the error of a message that the broker refused."""
    return PublishNacked(f"{broker} refused a message to {place(publication)} (basic.nack): is the queue full?")


def unconfirmed(publication: Publication[T], cause: LeveretError, broker: str) -> PublishUnconfirmed:
    """Return the error of a message whose confirm will not come any more."""
    error = PublishUnconfirmed(f"{broker} did not confirm a message to {place(publication)} ({cause}): {RESEND_ADVICE}")
    error.__cause__ = cause
    return error


def culprit(publications: Sequence[Publication[T]], error: LeveretError) -> Publication[T] | None:
    """Return the message that a reply code is about; None when it is about none of them, or nobody can tell which.

    The code names the failing method but not the message: if it is not the only one, its exchange or its size is in the text.
    """
    if not isinstance(error, ReplyError) or (error.class_id, error.method_id) != basic.Publish.INDEX:
        return None
    if len(publications) == 1:
        return publications[0]
    for publication in publications:
        exchange, body = publication[1], publication[4]
        if (exchange and f"exchange '{exchange}'" in error.reply_text) or f"message size {len(body)} " in error.reply_text:
            return publication
    return None
