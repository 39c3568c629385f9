"""Frames as they go out (AMQP 0-9-1, 4.2.3); how they come in is read by ``leveret.amqp.connection``.

::

    frame ── type:1 ── channel:2 ── size:4 ── payload ── 0xCE
    publish, deliver and the like ── method frame ── header frame ── body frame* (none for an empty body)

The functions for publish, deliver, ack and nack make whole frames with no object between, for the hot paths; anything
else is a ``Method`` and goes through ``Connection.send``.
"""

from __future__ import annotations

import struct
from typing import Final

from leveret.amqp.constants import FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, FRAME_OVERHEAD
from leveret.errors import LocalProtocolError

__all__ = ["HEARTBEAT_FRAME", "ack_frame", "content_frames", "deliver_frames", "frame", "nack_frame", "octets", "publish_frames"]

_HEAD: Final = struct.Struct(">BHI")
_METHOD_HEAD: Final = struct.Struct(">BHII")
_PUBLISH_HEAD: Final = struct.Struct(">BHIIH")
_DELIVERY: Final = struct.Struct(">QB")
_SETTLE: Final = struct.Struct(">BHIIQBB")

_END: Final = b"\xce"
_PUBLISH: Final = 60 << 16 | 40
_DELIVER: Final = 60 << 16 | 60
_ACK: Final = 60 << 16 | 80
_NACK: Final = 60 << 16 | 120

_OCTETS_SHOWN_MAX: Final = 64

HEARTBEAT_FRAME: Final = bytes((FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, 0xCE))


def frame(type_: int, channel: int, payload: bytes) -> bytes:
    """Return one frame around the payload."""
    return _HEAD.pack(type_, channel, len(payload)) + payload + _END


def content_frames(channel: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """Return the header frame and the body frames of a message, no frame larger than ``frame_max`` bytes (0: no limit).

    Raises ``LocalProtocolError`` when the header does not fit in one frame: it cannot be split.
    """
    size = len(body)
    part_max = frame_max - FRAME_OVERHEAD
    if len(header) > part_max and frame_max:
        raise LocalProtocolError(f"the message's properties take {len(header)} bytes; this connection's frames hold {part_max}")
    head = _HEAD.pack(FRAME_HEADER, channel, len(header)) + header
    if not size:
        return head + _END
    if size <= part_max or not frame_max:
        return head + _END + _HEAD.pack(FRAME_BODY, channel, size) + body + _END
    frames = [head, _END]
    for start in range(0, size, part_max):
        part = body[start : start + part_max]
        frames += (_HEAD.pack(FRAME_BODY, channel, len(part)), part, _END)
    return b"".join(frames)


def publish_frames(channel: int, route: bytes, bits: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """Return a whole basic.publish; ``route`` is the exchange and the routing key as two short strings, ``bits`` 1 mandatory."""
    head = _PUBLISH_HEAD.pack(FRAME_METHOD, channel, len(route) + 7, _PUBLISH, 0)
    return b"%b%b%c\xce%b" % (head, route, bits, content_frames(channel, header, body, frame_max))


def deliver_frames(
    channel: int,
    consumer_tag: bytes,
    delivery_tag: int,
    redelivered: bool,
    route: bytes,
    header: bytes,
    body: bytes,
    frame_max: int,
) -> bytes:
    """Return a whole basic.deliver; ``consumer_tag`` and ``route`` are short strings as on the wire, lengths included."""
    head = _METHOD_HEAD.pack(FRAME_METHOD, channel, len(consumer_tag) + len(route) + 13, _DELIVER)
    facts = _DELIVERY.pack(delivery_tag, redelivered)
    return b"%b%b%b%b\xce%b" % (head, consumer_tag, facts, route, content_frames(channel, header, body, frame_max))


def ack_frame(channel: int, delivery_tag: int, multiple: bool = False) -> bytes:
    """Return a basic.ack: a consumer's settlement, or the broker's publisher confirm."""
    return _SETTLE.pack(FRAME_METHOD, channel, 13, _ACK, delivery_tag, multiple, 0xCE)


def nack_frame(channel: int, delivery_tag: int, *, multiple: bool = False, requeue: bool = False) -> bytes:
    """Return a basic.nack (RabbitMQ's extension; it does all that basic.reject does)."""
    return _SETTLE.pack(FRAME_METHOD, channel, 13, _NACK, delivery_tag, multiple | requeue << 1, 0xCE)


def octets(payload: bytes) -> str:
    """Return the payload as RabbitMQ's error texts do, in Erlang's notation: ``<<"abc">>`` or ``<<1,2>>``, cut when long."""
    shown = payload[:_OCTETS_SHOWN_MAX]
    more = "..." if len(payload) > len(shown) else ""
    if shown and all(32 <= octet < 127 and octet not in b'"\\' for octet in shown):
        return f'<<"{shown.decode("ascii")}{more}">>'
    return f"<<{','.join(map(str, shown))}{more}>>"
