"""One line per attempt: how it ended, in words, and at which level. PURE."""

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

__all__ = ["line_of"]


def line_of(executed: ExecutedTask) -> tuple[int, str]:
    """Return the level and the text that follows ``task NAME[ID]``."""
    match executed.outcome:
        case Succeeded():
            return logging.DEBUG, f"succeeded in {_seconds(executed.runtime_s)}"
        case Failed(exc_type=exc_type, exc_message=exc_message):
            return logging.ERROR, f"failed after {_seconds(executed.runtime_s)}: {exc_type}: {exc_message}"
        case RetryAt(delay_s=delay_s, retries=retries, exc_type=exc_type, exc_message=exc_message):
            return logging.WARNING, f"retry {retries} in {_seconds(delay_s)}: {exc_type}: {exc_message}"
        case NotDue(delay_s=delay_s):
            return logging.DEBUG, f"is due in {_seconds(delay_s)}"
        case Rejected(requeue=requeue, reason=reason):
            return logging.WARNING, f"rejected{', back to its queue' if requeue else ''}{f': {reason}' if reason else ''}"
        case Ignored():
            return logging.INFO, "ignored"
        case TimedOut(limit_s=limit_s):
            return logging.ERROR, f"timed out after {_seconds(limit_s)}"
        case Revoked(reason=reason):
            return logging.INFO, f"not run: {reason}"
        case Unrunnable(exc_type=exc_type, exc_message=exc_message):
            return logging.ERROR, f"cannot be run here: {exc_type}: {exc_message}"
        case Lost(crashes=crashes, reason=reason):
            return logging.ERROR, f"given up after {crashes} crash{'' if crashes == 1 else 'es'}: {reason}"
        case _:
            assert_never(executed.outcome)


def _seconds(value_s: float) -> str:
    return f"{value_s * 1000:.1f} ms" if value_s < 1 else f"{value_s:.1f} s"
