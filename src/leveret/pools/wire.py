"""What a supervisor and one child say to each other, and the frames they say it in.

Two connected pairs of stream sockets per child, so that a child busy with user code can still be spoken to::

    data       supervisor ──▶ child    [Job, ...]                       run these, in this order
               supervisor ◀── child    [(number, report), ...]          these are done
    control    supervisor ──▶ child    RECALL                           give back what you have not started
               supervisor ◀── child    READY payload                    started; the payload is the caller's
                                       FAILED payload                   could not start; the child exits
                                       RECALLED [number, ...]           given back: never started, never will be

    frame      length of what follows (4 bytes, big endian) · one MessagePack value

End of stream on ``data`` asks the child to finish what it has and exit; end of stream on ``control`` (the supervisor is
gone) ends it at once. Both ends are of one version of this package, so the format carries none.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from leveret.errors import RemoteProtocolError

__all__ = ["FRAME_SIZE_MAX_BYTES", "Control", "FrameReader", "Job", "Kind", "frame"]

# A task body is at most 128 MiB (the protocol engine's body_size_max); a batch may hold several.
FRAME_SIZE_MAX_BYTES: Final = 1 << 30

_LENGTH: Final = struct.Struct(">I")


class Job(msgspec.Struct, array_like=True, gc=False):
    """One message to run, as it came from the broker; ``number`` is the supervisor's own and never used twice."""

    number: int
    queue: str
    redelivered: bool
    route: bytes
    header: bytes
    body: bytes


class Kind:
    """The words spoken on the control sockets."""

    RECALL: Final = 1
    READY: Final = 2
    FAILED: Final = 3
    RECALLED: Final = 4


class Control(msgspec.Struct, array_like=True, gc=False):
    """One word on a control socket; which of the fields mean something depends on ``kind``."""

    kind: int
    payload: bytes = b""
    numbers: list[int] = []


def frame(payload: bytes) -> bytes:
    """Put its length before an encoded value."""
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream, in whatever pieces it comes, into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the payloads that are now whole.

        Raises:
            RemoteProtocolError: a frame larger than ``FRAME_SIZE_MAX_BYTES``; the stream cannot be trusted any more.
        """
        payloads: list[bytes] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > FRAME_SIZE_MAX_BYTES:
                raise RemoteProtocolError(f"a frame of {size} bytes where at most {FRAME_SIZE_MAX_BYTES} are expected")
            end = start + 4 + size
            if end > len(buffer):
                break
            payloads.append(bytes(buffer[start + 4 : end]))
            start = end
        if start:
            del buffer[:start]
        return payloads
