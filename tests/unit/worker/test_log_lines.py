"""One line per attempt, and the traceback of a failure."""

from __future__ import annotations

import logging
from typing import get_args

import pytest

from leveret.app.executed import ExecutedTask
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
from leveret.worker.log_lines import line_of, traceback_of

LINES = [
    (Succeeded(), logging.DEBUG, "succeeded in 12.0 ms"),
    (Failed("ValueError", "no"), logging.ERROR, "failed after 12.0 ms: ValueError: no"),
    (Failed("KeyboardInterrupt", ""), logging.ERROR, "failed after 12.0 ms: KeyboardInterrupt"),
    (Failed("E", "1\n2026 INFO \x1b[31m\u202e é ☃"), logging.ERROR, r"failed after 12.0 ms: E: 1\n2026 INFO \x1b[31m\u202e é ☃"),
    (RetryAt(2.0, 1, "ValueError", "no"), logging.WARNING, "retry 1 in 2.0 s: ValueError: no"),
    (NotDue(60.0), logging.DEBUG, "is due in 60.0 s"),
    (Rejected(True, "busy"), logging.WARNING, "rejected, back to its queue: busy"),
    (Rejected(False, ""), logging.WARNING, "rejected"),
    (Ignored(), logging.INFO, "ignored"),
    (TimedOut(30.0), logging.ERROR, "timed out after 30.0 s"),
    (Revoked("expired"), logging.INFO, "not run: expired"),
    (Unrunnable("NotRegistered", "no task"), logging.ERROR, "cannot be run here: NotRegistered: no task"),
    (Lost(3, "SIGKILL"), logging.ERROR, "given up after 3 crashes: SIGKILL"),
    (Lost(1, "SIGKILL"), logging.ERROR, "given up after 1 crash: SIGKILL"),
]


@pytest.mark.parametrize(("outcome", "level", "text"), LINES)
def test_every_outcome_has_its_line(outcome: Outcome, level: int, text: str) -> None:
    """A success is for debugging, a failure is an error, and each says in words what happened."""
    assert line_of(ExecutedTask(outcome, "id", "t", 0.012)) == (level, text)


def test_a_failure_brings_its_traceback() -> None:
    """On lines of their own, and as harmless; a retry and a success bring none."""
    text = 'Traceback (most recent call last):\n  File "shop.py", line 1, in buy\nValueError: \x07no\n'
    shown = '\nTraceback (most recent call last):\n  File "shop.py", line 1, in buy\nValueError: \\x07no'
    assert traceback_of(ExecutedTask(Failed("ValueError", "no"), "id", "t", traceback=text)) == shown
    assert traceback_of(ExecutedTask(RetryAt(2.0, 1, "ValueError", "no"), "id", "t", traceback=text)) == ""
    assert traceback_of(ExecutedTask(Succeeded(), "id", "t")) == ""


def test_no_outcome_is_forgotten_above() -> None:
    """The table holds every member of the union."""
    assert {type(outcome) for outcome, _, _ in LINES} == set(get_args(Outcome))
