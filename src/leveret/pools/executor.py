"""The interface of an executor: how one child runs its jobs (one at a time, in threads, on an event loop, in greenlets)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from leveret.pools.link import Link
from leveret.pools.wire import Job

__all__ = ["Executor", "Runner"]

Runner = Callable[[Job], object]
"""Runs one job to its end and returns its report, a value msgspec can encode. It never raises."""


class Executor(Protocol):
    """Runs the jobs that come over a link."""

    def serve(self, link: Link, run: Runner) -> None:
        """Take jobs from ``link``, run them and answer each, until the link says that no more come; then flush and return."""
        ...
