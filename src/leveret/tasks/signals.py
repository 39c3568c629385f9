"""What a task may raise to steer its own fate.

They derive from ``TaskSignal``, a ``BaseException``: an ``except Exception`` in the task's code does not swallow them.
"""

from __future__ import annotations

from leveret.errors import TaskSignal

__all__ = ["Ignore", "Reject", "Retry"]


class Retry(TaskSignal):
    """Run the task again later; a task with its context calls ``self.retry(...)``, which raises it.

    ``delay_s`` None means the delay of the task's retry policy. ``is_allowed`` says that the number of retries was checked
    where it was raised; else the policy's limit holds.
    """

    def __init__(self, exc: BaseException | None = None, *, delay_s: float | None = None, is_allowed: bool = False) -> None:
        self.exc = exc
        self.delay_s = delay_s
        self.is_allowed = is_allowed
        super().__init__("retry" if exc is None else f"retry: {type(exc).__name__}: {exc}")


class Reject(TaskSignal):
    """Refuse the message: it goes to the dead-letter exchange, where its queue has one, or back to its queue.

    A message put back comes again at once, to this worker or another: use it for what only some workers can do.
    """

    def __init__(self, reason: str | BaseException | None = None, *, requeue: bool = False) -> None:
        """``reason`` is for log and result; an exception, as in Celery's ``Reject(exc)``, is told as its class and text."""
        self.reason = _in_words(reason)
        self.requeue = bool(requeue)
        super().__init__(self.reason)


class Ignore(TaskSignal):
    """Acknowledge the message and record that the outcome is to be ignored."""

    def __init__(self, reason: str | BaseException | None = None) -> None:
        """``reason`` is for the result, in words."""
        self.reason = _in_words(reason)
        super().__init__(self.reason)


def _in_words(reason: str | BaseException | None) -> str:
    if reason is None:
        return ""
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else str(reason)
