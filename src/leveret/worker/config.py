"""What the command line says to a worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from leveret.errors import ConfigurationError

__all__ = ["POOLS", "WorkerConfig", "default_concurrency", "executor_of"]

POOLS: Final = ("process",)
"""The pools of this version."""

_ALIASES: Final = {"prefork": "process", "processes": "process", "threads": "thread"}
_PLANNED: Final = ("thread", "asyncio", "gevent", "solo")
_EXECUTORS: Final = {"process": "serial"}


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker, as its user asked for it."""

    app: str
    """Where the app is, as ``module:attribute``."""
    pool: str
    concurrency: int | None
    """None: what the app says, or else one per processor."""
    queues: tuple[str, ...]
    """Names of the queues to consume; empty: those the app names."""
    loglevel: str
    hostname: str


def executor_of(pool: str) -> str:
    """Return the name of the executor that each child of a pool runs.

    Raises:
        ConfigurationError: there is no such pool, or not yet; the message names those there are.

    """
    name = _ALIASES.get(pool, pool)
    if name in _EXECUTORS:
        return _EXECUTORS[name]
    if name == "eventlet":
        raise ConfigurationError(
            "eventlet is no longer maintained and has no pool here; the gevent and asyncio pools take its place"
        )
    there_are = f"use --pool={', '.join(POOLS)} (prefork is another name of it)"
    if name in _PLANNED:
        raise ConfigurationError(f"the {name} pool is not available yet; {there_are}")
    raise ConfigurationError(f"there is no pool named {pool!r}; {there_are}")


def default_concurrency() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
