"""What a child reports of one message: everything the supervisor needs to store, publish, settle and log, as plain values."""

from __future__ import annotations

import msgspec

from leveret.tasks.outcomes import Outcome

__all__ = ["ExecutedTask", "FollowUp"]


class FollowUp(msgspec.Struct, array_like=True, gc=False):
    """A message to publish, and to have confirmed, before the one it follows from is settled."""

    header: bytes
    """The payload of its content header."""
    body: bytes
    queue: str
    delay_s: float = 0.0
    """Above zero it goes into the delay queue of ``queue`` (``leveret.tasks.routing.delay_queue``)."""


class ExecutedTask(msgspec.Struct, array_like=True, gc=False):
    """How one message was run; the supervisor stores ``meta``, publishes ``follow_ups``, then settles by ``outcome``."""

    outcome: Outcome
    task_id: str
    """Empty if the message did not say."""
    task_name: str
    runtime_s: float = 0.0
    meta: bytes | None = None
    """The result as JSON (``leveret.results.meta``); None: there is nothing to store."""
    reply_to: str = ""
    """The queue the caller waits on, for results that are sent; empty: it does not."""
    correlation_id: str = ""
    follow_ups: list[FollowUp] = []
    traceback: str = ""
    """The traceback of a failure, without the frames of this package."""
