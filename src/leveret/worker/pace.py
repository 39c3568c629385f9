"""How long tasks take here, and how many a child may therefore have ahead. PURE.

A child that is given one task at a time is idle for a round trip (about 0.1 ms) between two of them. That is nothing beside a
task of 10 ms and five times the work of a task of 20 µs, so a child gets tasks ahead only while they are short, and only
about ``AHEAD_S`` of work. A task of ``LONG_S`` among the recent ones closes the window: what is handed over waits behind it
until it is recalled. (Not a shorter one: the system takes a busy process off its core for a few milliseconds now and then.)
"""

from __future__ import annotations

from typing import Final

__all__ = ["AHEAD_COUNT_MAX", "AHEAD_S", "LONG_S", "Pace", "ahead_count"]

AHEAD_S: Final = 0.002
AHEAD_COUNT_MAX: Final = 64
LONG_S: Final = 0.01

_MEAN_WEIGHT: Final = 0.05  # of the newest task: the mean follows about the last 20
_LONGEST_DECAY: Final = 0.97  # per task: a task of 1 s is forgotten, as far as 10 ms, after 150 short ones
_RUNTIME_MIN_S: Final = 1e-6


class Pace:
    """The mean of the recent tasks' run times, and the longest of them, slowly forgotten."""

    __slots__ = ("count", "longest_s", "mean_s")

    def __init__(self) -> None:
        self.count = 0
        """How many tasks have been seen."""
        self.mean_s: float | None = None
        self.longest_s = 0.0

    def observe(self, runtime_s: float) -> None:
        """Take into account a task that has run."""
        self.count += 1
        self.mean_s = runtime_s if self.mean_s is None else self.mean_s + _MEAN_WEIGHT * (runtime_s - self.mean_s)
        self.longest_s = max(runtime_s, self.longest_s * _LONGEST_DECAY)

    def observe_running(self, elapsed_s: float) -> None:
        """Take into account a task that runs still: it is at least so long."""
        self.longest_s = max(self.longest_s, elapsed_s)


def ahead_count(pace: Pace) -> int:
    """Return how many tasks one child may hold, the running one included."""
    if pace.mean_s is None or pace.longest_s >= LONG_S:
        return 1
    return min(AHEAD_COUNT_MAX, 1 + int(AHEAD_S / max(pace.mean_s, _RUNTIME_MIN_S)))
