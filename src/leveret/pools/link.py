"""The child's end of its two socket pairs: jobs in, answers out, and the recall of jobs that were not started.

Two threads meet here: the one that runs jobs, and the control thread (``leveret.pools.control``), which must get its way
while the other is inside user code. What they share::

    _pending   deque of jobs, oldest left     both pop from the left; popping is atomic, and whoever pops a job owns it
    _unsent    deque of answers               both pop and send, under _send_lock
    data       the socket, read side          under _read_lock; the control thread only tries it, never waits
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import Final, NoReturn, TypeVar

import msgspec

from leveret.pools.mark import Mark
from leveret.pools.wire import FrameReader, Job, frame

__all__ = ["EXIT_COPY", "FLUSH_AFTER_S", "FLUSH_COUNT", "Link"]

# Answers wait for company this long at most while the next jobs are short; a long one is cut short by the control thread.
FLUSH_AFTER_S: Final = 0.003
FLUSH_COUNT: Final = 32
EXIT_COPY: Final = 70
_READ_SIZE_BYTES: Final = 1 << 18

_T = TypeVar("_T")


class Link:
    """The jobs and answers of one child."""

    def __init__(self, data: socket.socket, mark: Mark) -> None:
        self.mark = mark
        self._data = data
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(list[Job])
        self._encoder = msgspec.msgpack.Encoder()
        self._pending: deque[Job] = deque()
        self._unsent: deque[tuple[int, object]] = deque()
        self._first_unsent_s = 0.0
        self._read_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._pid = os.getpid()

    def next_job(self) -> Job | None:
        """Return the next job to run, waiting for one; ``None`` when the supervisor wants no more of this child."""
        pending = self._pending
        while True:
            try:
                return pending.popleft()
            except IndexError:
                self.flush()  # before the mark: a job whose answer ends the process has ended it
                self.mark.write(0)
                if not self._receive():
                    return None

    def answer(self, number: int, report: object) -> None:
        """Report on a job; the answer leaves with its batch."""
        if os.getpid() != self._pid:
            _end_copy()
        unsent = self._unsent
        now_s = time.monotonic()
        if not unsent:
            self._first_unsent_s = now_s
        unsent.append((number, report))
        if len(unsent) >= FLUSH_COUNT or now_s - self._first_unsent_s >= FLUSH_AFTER_S:
            self.flush()

    def flush(self) -> None:
        """Send the answers that wait."""
        if not self._unsent:
            return
        with self._send_lock:
            batch = _take_all(self._unsent)
            if batch:
                self._data.sendall(frame(self._encoder.encode(batch)))

    def recall(self) -> list[int]:
        """Give up every job that was not started, those still in the socket included; return their numbers, oldest first.

        Called by the control thread.
        """
        if self._read_lock.acquire(blocking=False):
            try:
                self._receive_ready()
            finally:
                self._read_lock.release()
        return [job.number for job in _take_all(self._pending)]

    def _receive(self) -> bool:
        """Wait for the next bytes of jobs; false at the end of the stream."""
        with self._read_lock:
            data = self._data.recv(_READ_SIZE_BYTES)
            self._take(data)
        return bool(data)

    def _receive_ready(self) -> None:
        """Take the bytes of jobs that are there already."""
        while True:
            try:
                data = self._data.recv(_READ_SIZE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not data:
                return  # the running thread will see the end of the stream for itself
            self._take(data)

    def _take(self, data: bytes) -> None:
        for payload in self._reader.feed(data):
            self._pending.extend(self._decoder.decode(payload))


def _end_copy() -> NoReturn:
    """End a process that a task made by ``os.fork`` and let return: two readers of one socket would tear the jobs apart."""
    told = f"leveret: process {os.getpid()}, forked in a task, has come back from it and ends here: let it end by os._exit\n"
    os.write(2, told.encode())
    os._exit(EXIT_COPY)


def _take_all(items: deque[_T]) -> list[_T]:
    """Empty a deque that another thread pops from and appends to; popping is atomic."""
    taken: list[_T] = []
    try:
        while True:
            taken.append(items.popleft())
    except IndexError:
        return taken
