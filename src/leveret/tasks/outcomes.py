"""How a delivery of a task message can end: a closed union. Adding an outcome must break the type check of whoever matches it.

What a worker does with each is ``leveret.worker.settlement``'s business. They travel from child to supervisor, so they are
msgspec structs with a tag and hold nothing but plain values; the encoded result travels beside them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "Failed",
    "Ignored",
    "Lost",
    "NotDue",
    "Outcome",
    "Rejected",
    "RetryAt",
    "Revoked",
    "Succeeded",
    "TimedOut",
    "Unrunnable",
]


class Succeeded(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task returned."""


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task raised, its arguments do not fit, or its result has no JSON form; it is not to be retried."""

    exc_type: str
    exc_message: str


class RetryAt(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task is to run again as a new message, ``retries`` being that message's count."""

    delay_s: float
    retries: int
    exc_type: str
    exc_message: str


class NotDue(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The message came before its ETA (a Celery producer's does): the same message is to come again when it is due."""

    delay_s: float


class Rejected(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task refused its message."""

    requeue: bool
    reason: str


class Ignored(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task ended and wants nothing recorded of its outcome."""


class TimedOut(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task ran longer than a time limit."""

    limit_s: float


class Revoked(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The task was not started and never will be: it came after its expiry, or was revoked."""

    reason: str


class Unrunnable(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The message cannot be run here at all: no task of that name, not a task message, or one that asks for what we lack.

    Another worker, or this one after a deploy, may know better: the message is to be kept where it can be found again.
    """

    exc_type: str
    exc_message: str


class Lost(msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The process that ran the task died of it for the last time that ``task_crash_limit`` allows."""

    crashes: int
    reason: str


Outcome: TypeAlias = Succeeded | Failed | RetryAt | NotDue | Rejected | Ignored | TimedOut | Revoked | Unrunnable | Lost
