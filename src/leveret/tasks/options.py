"""What the decorator says about a task, apart from its function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from leveret.errors import ConfigurationError
from leveret.tasks.retry import NO_RETRY, RetryPolicy

__all__ = ["PRIORITY_MAX", "TaskOptions", "check_priority"]

PRIORITY_MAX: Final = 255
"""The largest value of the property, an octet (AMQP 0-9-1, 1.8.3.9); a queue caps it at its own ``x-max-priority``."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """One task's options; None leaves it to the app's setting of the same meaning.

    Raises:
        ConfigurationError: a value that cannot be.

    """

    queue: str | None = None
    priority: int | None = None
    bind: bool = False
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    ignore_result: bool | None = None
    retry: RetryPolicy = NO_RETRY
    has_own_delay: bool = False
    """The policy's delay was asked for; otherwise ``task_default_retry_delay`` is."""

    def policy(self, *, default_delay_s: float) -> RetryPolicy:
        """Return the retry policy, with the app's delay where the task has none of its own."""
        # The second half is the common case, and asked once a task: replace() takes 6 µs, a quarter of a whole no-op task.
        if self.has_own_delay or (default_delay_s == self.retry.backoff_s and default_delay_s <= self.retry.delay_max_s):
            return self.retry
        return replace(self.retry, backoff_s=default_delay_s, delay_max_s=max(default_delay_s, self.retry.delay_max_s))

    def __post_init__(self) -> None:
        """Check what types alone do not."""
        if self.queue == "":
            raise ConfigurationError("a task's queue needs a name; leave it out for the app's default queue")
        if self.priority is not None:
            check_priority(self.priority)


def check_priority(priority: object) -> None:
    """Raise ``ConfigurationError`` unless the priority can be sent."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= PRIORITY_MAX:
        raise ConfigurationError(f"a priority must be a whole number from 0 to {PRIORITY_MAX}, not {priority!r}")
