"""How long a caller is willing to wait, carried through everything that is done for it."""

from __future__ import annotations

from leveret.clock import Clock

__all__ = ["Deadline"]


class Deadline:
    """A moment by which something must have happened, and how long that was when it was set."""

    __slots__ = ("_at_s", "_clock", "timeout_s")

    def __init__(self, timeout_s: float, clock: Clock) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._at_s = clock.monotonic_s() + timeout_s

    def remaining_s(self) -> float:
        """Return the seconds left, never below 0."""
        return max(self._at_s - self._clock.monotonic_s(), 0.0)

    def at_most(self, timeout_s: float) -> Deadline:
        """Return this deadline, or one after ``timeout_s`` from now where that is sooner."""
        return Deadline(min(timeout_s, self.remaining_s()), self._clock)

    def at_least(self, timeout_s: float) -> Deadline:
        """Return this deadline, or one after ``timeout_s`` from now where that is later."""
        return Deadline(max(timeout_s, self.remaining_s()), self._clock)
