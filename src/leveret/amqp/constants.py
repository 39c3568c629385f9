"""The fixed numbers of AMQP 0-9-1: frame types and sizes, the protocol header, and the reply codes that are no errors.

The frame constants are those of AMQP 0-9-1, 4.2.3. For each other reply code of 1.5.2 ``leveret.errors`` has a class.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "FRAME_BODY",
    "FRAME_END",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_METHOD",
    "FRAME_MIN_SIZE",
    "FRAME_OVERHEAD",
    "NO_ROUTE",
    "PROTOCOL_HEADER",
    "REPLY_SUCCESS",
    "SHORTSTR_SIZE_MAX",
]

FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE

FRAME_OVERHEAD: Final = 8
"""Bytes of a frame besides its payload: type, channel and size before it, the frame end after it."""

FRAME_MIN_SIZE: Final = 4096
"""The frame size every peer must take, and the only one allowed before connection.tune-ok."""

SHORTSTR_SIZE_MAX: Final = 255
"""Bytes a short string holds: its length is one octet."""

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"

REPLY_SUCCESS: Final = 200
"""In connection.close and channel.close: nothing went wrong."""

NO_ROUTE: Final = 312
"""In basic.return: no queue for a mandatory message."""
