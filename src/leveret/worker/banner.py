"""What a worker says of itself once it is ready. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["banner"]

_NAMES_MAX: Final = 12


def banner(
    *,
    hostname: str,
    app: str,
    broker: str,
    results: str,
    queues: Sequence[str],
    pool: str,
    concurrency: int,
    tasks: Sequence[str],
) -> list[str]:
    """Return the lines."""
    return [
        f"{hostname} is ready",
        f"  app      {app}",
        f"  broker   {broker}",
        f"  results  {results}",
        f"  queues   {_names(queues)}",
        f"  pool     {pool}, concurrency {concurrency}",
        f"  tasks    {_names(tasks) or 'none'}",
    ]


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_MAX
    return ", ".join(names[:_NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
