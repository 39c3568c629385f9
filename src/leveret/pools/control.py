"""The child's control thread: it answers the supervisor while user code runs, and ends the child when the supervisor is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from typing import Final

import msgspec

from leveret.pools.link import Link
from leveret.pools.wire import Control, FrameReader, Kind, frame

__all__ = ["EXIT_ORPHANED", "ControlThread"]

EXIT_ORPHANED: Final = 77
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class ControlThread:
    """Speaks on the control socket, from the child's first moments to its end."""

    def __init__(self, control: socket.socket, link: Link) -> None:
        self._control = control
        self._link = link
        self._encoder = msgspec.msgpack.Encoder()

    def start(self) -> None:
        """Start listening; the thread is a daemon and ends with the process."""
        threading.Thread(target=self._listen, name="leveret-control", daemon=True).start()

    def say(self, kind: int, payload: bytes = b"", numbers: list[int] | None = None) -> None:
        """Send one word to the supervisor."""
        self._control.sendall(frame(self._encoder.encode(Control(kind, payload, numbers or []))))

    def _listen(self) -> None:
        _die_with_parent()
        reader = FrameReader()
        decoder = msgspec.msgpack.Decoder(Control)
        try:
            while data := self._control.recv(4096):
                for payload in reader.feed(data):
                    if decoder.decode(payload).kind == Kind.RECALL:
                        self._give_back()
        finally:
            # End of stream, or a supervisor that makes no sense: nobody would hear what the running task returns. _exit,
            # because the main thread may be in user code for hours, and exit handlers of user code must not hold us up.
            os._exit(EXIT_ORPHANED)

    def _give_back(self) -> None:
        self._link.flush()
        self.say(Kind.RECALLED, numbers=self._link.recall())


def _die_with_parent() -> None:
    """Have the kernel kill this process when its supervisor dies, even while a C extension holds the GIL for minutes.

    Where there is no such call, end of stream on the control socket does it as soon as the GIL is free.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
