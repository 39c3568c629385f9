"""Waiting for a fact instead of sleeping for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def wait_until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Ask until the answer is true and return it.

    The pause between two questions grows from 2 to 50 ms. ``what`` completes the sentence "waited 5 s for ...".

    Raises:
        AssertionError: the answer was not true within ``timeout_s``.

    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not (answer := condition()):
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; the last answer was {answer!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return answer
