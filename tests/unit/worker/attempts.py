"""Attempts for tests."""

from __future__ import annotations

from leveret.worker.attempt import Attempt

__all__ = ["attempt"]


def attempt(number: int, *, priority: int = 0, generation: int = 1, redelivered: bool = False) -> Attempt:
    """Make an attempt whose delivery tag is its number."""
    return Attempt(
        number,
        generation=generation,
        delivery_tag=number,
        queue="celery",
        redelivered=redelivered,
        priority=priority,
        route=b"\x00\x06celery",
        header=b"",
        body=b"",
    )
