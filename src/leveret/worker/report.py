"""What a child says of one attempt when it is over."""

from __future__ import annotations

import msgspec

from leveret.tasks.outcomes import Outcome

__all__ = ["Report"]


class Report(msgspec.Struct, array_like=True, gc=False):
    """One attempt's outcome, and everything the supervisor needs to store it and to go on, encoded already."""

    outcome: Outcome
    task: str
    task_id: str
    runtime_s: float
    meta: bytes | None = None
    """The result's meta, in Celery's JSON; None: nothing is to be stored."""
    reply_to: str = ""
    correlation_id: str = ""
    next_header: bytes = b""
    """The content header of the message that continues this one: a retry's."""
    next_body: bytes = b""
