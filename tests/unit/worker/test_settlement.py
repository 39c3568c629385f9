"""Every outcome has its settlement."""

from __future__ import annotations

import pytest

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
from leveret.worker.settlement import Ack, Reject, settlement


@pytest.mark.parametrize(
    "outcome",
    [Succeeded(), Ignored(), Revoked("expired"), RetryAt(1.0, 1, "E", "m"), NotDue(1.0), Unrunnable("NotRegistered", "m")],
)
@pytest.mark.parametrize("acks_failures", [True, False])
def test_what_is_done_or_continues_elsewhere_is_acknowledged(outcome: Outcome, acks_failures: bool) -> None:
    """Success, and whatever has a confirmed successor message, is acknowledged whatever the settings say."""
    assert settlement(outcome, acks_failures=acks_failures) == Ack()


@pytest.mark.parametrize("outcome", [Failed("E", "m"), TimedOut(3.0), Lost(3, "signal 9")])
def test_failures_are_dead_lettered_unless_the_setting_says_otherwise(outcome: Outcome) -> None:
    """A failed task's message goes to its queue's dead-letter exchange; with Celery's setting it is acknowledged."""
    assert settlement(outcome, acks_failures=False) == Reject(requeue=False)
    assert settlement(outcome, acks_failures=True) == Ack()


@pytest.mark.parametrize("requeue", [True, False])
def test_a_task_that_rejects_decides_itself(requeue: bool) -> None:
    """``Reject(requeue=...)`` is done as it says."""
    assert settlement(Rejected(requeue, ""), acks_failures=True) == Reject(requeue=requeue)
