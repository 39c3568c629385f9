"""What a task with ``bind=True`` gets as its first argument: what is known of this call, and the way to ask for another."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

from leveret.clock import SystemClock
from leveret.errors import RetriesExhausted
from leveret.tasks.retry import NO_RETRY, RetryPolicy
from leveret.tasks.signals import Retry

__all__ = ["Request", "TaskContext"]


@dataclass(slots=True)
class Request:
    """One call as it arrived. Called as a plain function, a task has an empty one with ``called_directly``."""

    id: str = ""
    task: str = ""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    priority: int = 0
    exchange: str = ""
    routing_key: str = ""
    queue: str = ""
    """The queue the message came from, as far as the worker knows it."""
    redelivered: bool = False
    crashes: int = 0
    """How many processes have died of this call."""
    headers: Mapping[str, object] = field(default_factory=dict)
    """Headers the caller added."""
    ignore_result: bool = False
    called_directly: bool = False


class TaskContext:
    """The task's own view of one call: ``self`` in a function with ``bind=True``."""

    __slots__ = ("_policy", "name", "request")

    def __init__(self, name: str, request: Request, policy: RetryPolicy = NO_RETRY) -> None:
        self.name = name
        self.request = request
        self._policy = policy

    @property
    def max_retries(self) -> int | None:
        """The number of retries the task's policy allows; None: no limit."""
        return self._policy.max

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """Have this call run again, ``countdown`` seconds from now or at ``eta``, and leave it now.

        Without a time the task's retry policy says when. It raises; ``raise self.retry(...)`` tells readers so. With no retries
        left it raises ``exc`` (by default the exception being handled), or ``RetriesExhausted`` where there is none.
        """
        reason = exc if exc is not None else sys.exc_info()[1]
        limit = self._policy.max if max_retries is None else max_retries
        if self.request.called_directly or (limit is not None and self.request.retries >= limit):
            if reason is not None:
                raise reason
            raise RetriesExhausted(f"task {self.name}, id {self.request.id}, has been retried {self.request.retries} times")
        if eta is not None and countdown is None:
            countdown = _aware(eta).timestamp() - SystemClock().wall_s()
        raise Retry(reason, delay_s=None if countdown is None else max(0.0, countdown), is_allowed=True) from reason


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(f"eta={time!r} has no time zone; write datetime.now(timezone.utc) + timedelta(...), or use countdown=")
    return time
