"""The supervisor's handle of one child process: start it, hand it jobs, hear it, end it.

::

    STARTING ──READY──▶ READY ──▶ LEAVING ──▶ GONE
        └──────FAILED or death──────┴───────────┘

Everything happens on the event loop; nothing here blocks but the fork itself (about 1 ms). The loop must run in the main
thread: children ask the kernel to kill them when the thread that started them is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from leveret.errors import RemoteProtocolError
from leveret.pools.child import Handles
from leveret.pools.mark import MARK_SIZE_BYTES, Mark
from leveret.pools.wire import Control, FrameReader, Job, Kind, frame

__all__ = ["ChildEvents", "ChildProcess", "ChildState", "Exit", "Report", "new_mark"]

Report = TypeVar("Report")

_READ_SIZE_BYTES: Final = 1 << 18


class ChildState(Enum):
    """Where a child is in its life; drawn above."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    GONE = "gone"


class Exit(NamedTuple):
    """How a child ended; ``returncode`` as ``subprocess`` has it: negative is a signal."""

    pid: int
    returncode: int

    def __str__(self) -> str:
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        try:
            return f"signal {-self.returncode} ({signal.Signals(-self.returncode).name})"
        except ValueError:
            return f"signal {-self.returncode}"


class ChildEvents(Protocol[Report]):
    """What the owner of a child hears of it."""

    def child_ready(self, child: ChildProcess[Report], payload: bytes) -> None:
        """Hear that it has started; the payload is its start function's."""
        ...

    def child_failed(self, child: ChildProcess[Report], payload: bytes) -> None:
        """Hear that it could not start and is about to exit."""
        ...

    def child_answered(self, child: ChildProcess[Report], answers: list[tuple[int, Report]]) -> None:
        """Hear that jobs are done: pairs of (number, report)."""
        ...

    def child_recalled(self, child: ChildProcess[Report], numbers: list[int]) -> None:
        """Hear the answer to one recall: these jobs were not started and never will be."""
        ...

    def child_exited(self, child: ChildProcess[Report], exit_: Exit, job_running: int) -> None:
        """Hear that it is dead, and everything it said was heard; ``job_running`` was on when it died (0: none)."""
        ...


class ChildProcess(Generic[Report]):
    """One child, from ``start`` to its death."""

    def __init__(
        self,
        command: Callable[[Handles], Sequence[str]],
        *,
        answers: msgspec.msgpack.Decoder[list[tuple[int, Report]]],
        events: ChildEvents[Report],
    ) -> None:
        """Prepare a child of ``command``, which is given the descriptors the child will inherit."""
        self.state = ChildState.STARTING
        self.pid = 0
        self._command = command
        self._answers = answers
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._data_reader = FrameReader()
        self._control_reader = FrameReader()
        self._control_decoder = msgspec.msgpack.Decoder(Control)
        self._unsent = bytearray()
        self._last_answered = 0

    def start(self) -> None:
        """Start the process; ``child_ready`` or ``child_failed`` or ``child_exited`` follows."""
        self._data, data = socket.socketpair()
        self._control, control = socket.socketpair()
        self._mark = new_mark()
        handles = Handles(data.fileno(), control.fileno(), self._mark.fd)
        with data, control:
            # A process group of its own: Ctrl-C in the terminal is for the supervisor, which decides what becomes of children.
            self._process = subprocess.Popen(self._command(handles), stdin=subprocess.DEVNULL, pass_fds=handles, process_group=0)
        self.pid = self._process.pid
        self._data.setblocking(False)
        self._control.setblocking(False)
        self._loop.add_reader(self._data, self._read_data)
        self._loop.add_reader(self._control, self._read_control)

    def hand(self, jobs: list[Job]) -> None:
        """Send jobs, to be run in this order after those sent before."""
        data = frame(self._encoder.encode(jobs))
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._data, self._write)

    def recall(self) -> None:
        """Ask for every job that was not started, and for the answers that wait; ``child_recalled`` follows."""
        self._say(Kind.RECALL)

    def leave(self) -> None:
        """Ask the child to finish the jobs it has and exit, exit handlers of user code included."""
        if self.state in (ChildState.STARTING, ChildState.READY):
            self.state = ChildState.LEAVING
            self._half_close()

    def kill(self) -> None:
        """Kill the process at once; ``child_exited`` follows."""
        if self._process is not None and self.state is not ChildState.GONE:
            self._process.kill()

    def reap(self) -> bool:
        """Notice that the process has died, if it has; return whether it is gone. To be called on SIGCHLD."""
        if self.state is ChildState.GONE:
            return True
        if self._process is None or (returncode := self._process.poll()) is None:
            return False
        # Its last words first: what is in the sockets was said before it died.
        while self._read_control() or self._read_data():
            pass
        self.state = ChildState.GONE
        self._loop.remove_reader(self._data)
        self._loop.remove_writer(self._data)
        self._loop.remove_reader(self._control)
        self._data.close()
        self._control.close()
        job_running = self._mark.read()
        self._mark.close()
        if job_running == self._last_answered:
            job_running = 0  # it died after the answer, before it could note that the job is over
        self._events.child_exited(self, Exit(self.pid, returncode), job_running)
        return True

    def _half_close(self) -> None:
        try:
            self._data.shutdown(socket.SHUT_WR)
        except OSError:
            self.reap()

    def _say(self, kind: int) -> None:
        # A few bytes, asked for once at a time: the socket's buffer has room, or its peer is dead and SIGCHLD is on its way.
        try:
            self._control.send(frame(self._encoder.encode(Control(kind))))
        except OSError:
            self.reap()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._data.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the child is dead; what was handed to it is accounted for in child_exited

    def _write(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._data)

    def _read_data(self) -> bool:
        """Hear the answers that are there; return whether anything was."""
        if (payloads := self._frames(self._data, self._data_reader)) is None:
            return False
        try:
            for payload in payloads:
                answers = self._answers.decode(payload)
                if answers:
                    self._last_answered = answers[-1][0]
                self._events.child_answered(self, answers)
        except msgspec.MsgspecError:
            self.kill()
        return True

    def _read_control(self) -> bool:
        """Hear the words that are there; return whether anything was."""
        if (payloads := self._frames(self._control, self._control_reader)) is None:
            return False
        try:
            for payload in payloads:
                self._hear(self._control_decoder.decode(payload))
        except msgspec.MsgspecError:
            self.kill()
        return True

    def _hear(self, word: Control) -> None:
        if word.kind == Kind.RECALLED:
            self._events.child_recalled(self, word.numbers)
        elif word.kind == Kind.READY and self.state is ChildState.STARTING:
            self.state = ChildState.READY
            self._events.child_ready(self, word.payload)
        elif word.kind == Kind.FAILED:
            self.state = ChildState.LEAVING
            self._events.child_failed(self, word.payload)

    def _frames(self, source: socket.socket, reader: FrameReader) -> list[bytes] | None:
        """Read once: the frames that are whole now, or ``None`` when there was nothing to read.

        At the end of the stream, or when it makes no sense, stop watching and kill the child: it cannot be spoken to any more.
        One that is exiting is past the point where a signal would change its exit code.
        """
        try:
            if data := source.recv(_READ_SIZE_BYTES):
                return reader.feed(data)
        except BlockingIOError:
            return None
        except (OSError, RemoteProtocolError):
            pass  # as good as the end of the stream
        self._loop.remove_reader(source)
        if self.state is not ChildState.LEAVING:
            self.kill()
        return None


def new_mark() -> Mark:
    """Make a word of memory to be shared with a child, 0 at first."""
    with tempfile.TemporaryFile() as file:
        file.truncate(MARK_SIZE_BYTES)
        return Mark(os.dup(file.fileno()))
