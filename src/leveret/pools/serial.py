"""The executor that runs one job at a time, in the child's main thread."""

from __future__ import annotations

from leveret.pools.executor import Runner
from leveret.pools.link import Link

__all__ = ["SerialExecutor"]


class SerialExecutor:
    """One job after another, in the order they came, in the main thread (where signal handlers and most libraries want to be)."""

    def serve(self, link: Link, run: Runner) -> None:
        """Run jobs until the supervisor wants no more."""
        mark = link.mark
        while (job := link.next_job()) is not None:
            mark.write(job.number)
            link.answer(job.number, run(job))
