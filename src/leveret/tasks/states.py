"""The states of a task that the outside sees: Celery's words, in a result's ``status``.

::

    PENDING ──▶ RECEIVED ──▶ STARTED ──┬──▶ SUCCESS
    (no result is known)     ▲         ├──▶ FAILURE
                             │         ├──▶ REJECTED   the task refused its message
                             └─ RETRY ◀┤
                                       ├──▶ IGNORED    the task wants nothing recorded of its outcome
                                       └──▶ REVOKED    never run: expired or revoked
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["FINAL_STATES", "State"]


class State(StrEnum):
    """What is known of a task."""

    PENDING = "PENDING"
    RECEIVED = "RECEIVED"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REJECTED = "REJECTED"
    IGNORED = "IGNORED"
    REVOKED = "REVOKED"


FINAL_STATES: Final = frozenset({State.SUCCESS, State.FAILURE, State.REJECTED, State.IGNORED, State.REVOKED})
"""The states after which nothing more comes."""
