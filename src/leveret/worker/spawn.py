"""The command line of a child, written by the supervisor and read by ``leveret.worker.child``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import msgspec

from leveret.pools.child import Handles

__all__ = ["ChildOptions", "child_command"]


class ChildOptions(msgspec.Struct, frozen=True):
    """What a child is told."""

    app: str
    executor: str
    loglevel: str


def child_command(options: ChildOptions) -> Callable[[Handles], Sequence[str]]:
    """Return what makes the command line of a child that inherits these descriptors."""
    told = msgspec.json.encode(options).decode()
    return lambda handles: [sys.executable, "-m", "leveret.worker.child", msgspec.json.encode(handles).decode(), told]
