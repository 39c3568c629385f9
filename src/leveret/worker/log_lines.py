"""One line per attempt: how it ended, in words, and at which level; for a failure its traceback, too. PURE.

What users' exceptions say is told on one line and escaped, so that it can neither forge a line nor drive a terminal.
"""

from __future__ import annotations

import logging
from typing import assert_never

from leveret.app.executed import ExecutedTask
from leveret.tasks.outcomes import (
    Failed,
    Ignored,
    Lost,
    NotDue,
    Rejected,
    RetryAt,
    Revoked,
    Succeeded,
    TimedOut,
    Unrunnable,
)

__all__ = ["line_of", "traceback_of"]


def line_of(executed: ExecutedTask) -> tuple[int, str]:
    """Return the level and the text that follows ``task NAME[ID]``."""
    match executed.outcome:
        case Succeeded():
            return logging.DEBUG, f"succeeded in {_seconds(executed.runtime_s)}"
        case Failed(exc_type=exc_type, exc_message=exc_message):
            return logging.ERROR, f"failed after {_seconds(executed.runtime_s)}: {_error(exc_type, exc_message)}"
        case RetryAt(delay_s=delay_s, retries=retries, exc_type=exc_type, exc_message=exc_message):
            return logging.WARNING, f"retry {retries} in {_seconds(delay_s)}: {_error(exc_type, exc_message)}"
        case NotDue(delay_s=delay_s):
            return logging.DEBUG, f"is due in {_seconds(delay_s)}"
        case Rejected(requeue=requeue, reason=reason):
            return logging.WARNING, f"rejected{', back to its queue' if requeue else ''}{_after_colon(reason)}"
        case Ignored():
            return logging.INFO, "ignored"
        case TimedOut(limit_s=limit_s):
            return logging.ERROR, f"timed out after {_seconds(limit_s)}"
        case Revoked(reason=reason):
            return logging.INFO, f"not run: {reason}"
        case Unrunnable(exc_type=exc_type, exc_message=exc_message):
            return logging.ERROR, f"cannot be run here: {_error(exc_type, exc_message)}"
        case Lost(crashes=crashes, reason=reason):
            return logging.ERROR, f"given up after {crashes} crash{'' if crashes == 1 else 'es'}: {reason}"
        case _:
            assert_never(executed.outcome)


def traceback_of(executed: ExecutedTask) -> str:
    """Return what follows the line of a task that has failed for good: its traceback, on lines of their own; else nothing."""
    if not isinstance(executed.outcome, Failed):
        return ""
    return "".join(f"\n{_one_line(line)}" for line in executed.traceback.splitlines())


def _error(exc_type: str, exc_message: str) -> str:
    return f"{exc_type}{_after_colon(exc_message)}"


def _after_colon(text: str) -> str:
    return f": {_one_line(text)}" if text else ""


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _seconds(value_s: float) -> str:
    return f"{value_s * 1000:.1f} ms" if value_s < 1 else f"{value_s:.1f} s"
