"""A child's life: take over the sockets, start, say so, run jobs, leave.

Who starts a child and what its runner does is not known here: ``leveret.worker.child`` is the entry point.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final, NamedTuple

from leveret.pools.control import ControlThread
from leveret.pools.executor import Executor, Runner
from leveret.pools.link import Link
from leveret.pools.mark import Mark
from leveret.pools.wire import Kind

__all__ = ["EXIT_START_FAILED", "Handles", "StartFailure", "Started", "live"]

EXIT_START_FAILED: Final = 78


class Handles(NamedTuple):
    """The file descriptors a child inherits; see ``leveret.pools.wire`` and ``leveret.pools.mark``."""

    data: int
    control: int
    mark: int


class Started(NamedTuple):
    """What a successful start gives: how to run jobs, and what to tell the supervisor."""

    executor: Executor
    run: Runner
    payload: bytes


class StartFailure(Exception):
    """Raised by a start function that cannot go on; ``payload`` is what the supervisor is told."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the child cannot start")
        self.payload = payload


def live(handles: Handles, start: Callable[[], Started]) -> int:
    """Live as a child until the supervisor wants no more; return the exit code."""
    _leave_signals_to_the_supervisor()
    mark = Mark(handles.mark)
    data = socket.socket(fileno=handles.data)
    control = socket.socket(fileno=handles.control)
    for descriptor in handles:  # they came over exec; a program started by a task must not get them
        os.set_inheritable(descriptor, False)
    link = Link(data, mark)
    control_thread = ControlThread(control, link)
    control_thread.start()
    try:
        started = start()
    except StartFailure as failure:
        control_thread.say(Kind.FAILED, failure.payload)
        return EXIT_START_FAILED
    control_thread.say(Kind.READY, started.payload)
    started.executor.serve(link, started.run)
    return 0


def _leave_signals_to_the_supervisor() -> None:
    """Let SIGINT and SIGTERM do nothing here.

    Ctrl-C in a terminal and a service manager's SIGTERM to the whole group reach every process; only the supervisor decides
    what they mean. A handler that does nothing, rather than SIG_IGN, because programs started by tasks would inherit that.
    """
    signal.signal(signal.SIGINT, _do_nothing)
    signal.signal(signal.SIGTERM, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""
