"""The interfaces of a result store: workers write, producers read and wait."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from leveret.results.meta import ResultMeta

__all__ = ["ResultReader", "ResultWriter", "Watch"]


class ResultWriter(Protocol):
    """The worker's side: keeps what tasks came to. One object may be used from several threads."""

    def store(self, metas: Sequence[bytes]) -> None:
        """Store encoded results, all of them or none; when it returns they are safe.

        A later one of a task replaces an earlier, but nothing replaces a success.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; safe to call twice."""
        ...


class Watch(Protocol):
    """A wait for the results of certain tasks, in whatever order they come."""

    def next(self, timeout_s: float | None) -> list[ResultMeta]:
        """Return the final results that have come since the last call, each once, waiting for the first if there are none.

        None waits without end; an empty list means that the time is over, or that none are left to wait for.
        """
        ...


class ResultReader(Protocol):
    """The producer's side. One object may be used from several threads."""

    def watch(self, task_ids: Collection[str]) -> Watch:
        """Begin to wait for these."""
        ...

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return what is known of a task now, without waiting; None when nothing is."""
        ...

    def close(self) -> None:
        """Let go of what it holds; safe to call twice."""
        ...
