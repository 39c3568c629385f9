"""A clock that stands still until a test moves it."""

from __future__ import annotations

__all__ = ["SetClock"]


class SetClock:
    """Wall time and monotonic time, which move together and only by ``advance``."""

    def __init__(self, wall_s: float = 1_000_000_000.0) -> None:
        self._wall_s = wall_s
        self._monotonic_s = 0.0

    def monotonic_s(self) -> float:
        """Return the seconds advanced since the clock was made."""
        return self._monotonic_s

    def wall_s(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._wall_s += seconds
        self._monotonic_s += seconds
