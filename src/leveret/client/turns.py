"""How several threads share one socket without a thread of its own: whoever waits takes a turn at reading.

::

    thread A  ── wait ── reads, handles what came ────────── its answer is there: leaves ─┐
    thread B  ── wait ── sleeps ──── woken, its answer is there: leaves                   │ hands over
    thread C  ── wait ── sleeps ──────────────────────────────────────────────────────────┴─► reads …

One thread reads at a time, with the lock released while it blocks; all that came is handled under the lock, and the threads
whose answers it brought are woken. A thread that leaves while it reads (answered, out of time, interrupted) hands over to one
that still waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from leveret.amqp.methods.base import Method
from leveret.client.deadline import Deadline
from leveret.errors import LeveretError

__all__ = ["Turns", "Waiter"]

_WAIT_MAX_S: Final = 86_400.0
"""Where a caller's patience ends in one wait: what the operating system takes as a timeout has a limit too."""


class Waiter:
    """One thread's wait for one answer."""

    __slots__ = ("_signal", "done", "error", "reply")

    def __init__(self) -> None:
        self.done = False
        self.error: LeveretError | None = None
        self.reply: Method | None = None
        self._signal: threading.Condition | None = None

    def finish(self, *, reply: Method | None = None, error: LeveretError | None = None) -> None:
        """End the wait, under the lock; only the first time counts."""
        if not self.done:
            self.done = True
            self.reply = reply
            self.error = error
            self.wake()

    def wake(self) -> None:
        """Make the thread look again, if it sleeps."""
        if self._signal is not None:
            self._signal.notify()

    def sleep(self, lock: threading.RLock, timeout_s: float) -> None:
        """Release the lock until woken or out of time."""
        self._signal = threading.Condition(lock)
        self._signal.wait(timeout_s)


class Turns:
    """The lock of one connection and whose turn it is to read.

    ``block`` waits for the socket, for at most so many seconds and without the lock, and tells whether something came;
    ``take_in`` handles it, with the lock. A signal handler that raises (Ctrl-C) may end either, or anything between: the lock
    is held again when ``wait`` raises, which is why it is one that knows its owner.
    """

    def __init__(self, block: Callable[[float], bool], take_in: Callable[[bool], None]) -> None:
        self.lock = threading.RLock()
        self._reader: int | None = None
        self._block = block
        self._take_in = take_in
        self._waiting: dict[Waiter, None] = {}

    @property
    def reading(self) -> bool:
        """Tell whether it is some thread's turn to read at the moment."""
        return self._reader is not None

    def is_inside(self) -> bool:
        """Tell whether this thread is in the middle of a call, as it is when a signal handler asks."""
        return _is_owned(self.lock) or self._reader == threading.get_ident()

    def wait(self, waiter: Waiter, deadline: Deadline) -> bool:
        """Wait until somebody finishes the waiter, reading when nobody else does; tell whether it was in time.

        The caller holds the lock, and holds it again when this returns or raises.
        """
        try:
            while not waiter.done and (remaining_s := min(deadline.remaining_s(), _WAIT_MAX_S)) > 0.0:
                if self._reader is not None:
                    self._waiting[waiter] = None
                    waiter.sleep(self.lock, remaining_s)
                else:
                    self._reader = threading.get_ident()
                    try:
                        self._read(remaining_s)
                    finally:
                        self._reader = None
        finally:
            if not _is_owned(self.lock):
                self.lock.acquire()
            self._waiting.pop(waiter, None)
            if self._reader is None and self._waiting:
                next(iter(self._waiting)).wake()
        return waiter.done

    def _read(self, timeout_s: float) -> None:
        came = False
        try:
            self.lock.release()
            came = self._block(timeout_s)
        finally:
            if not _is_owned(self.lock):
                self.lock.acquire()
            self._take_in(came)


def _is_owned(lock: threading.RLock) -> bool:
    """Tell whether this thread holds the lock."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # as threading.Condition asks; there is no public way
