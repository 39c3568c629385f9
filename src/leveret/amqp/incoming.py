"""What is read of a frame's payload without making an object of it, and what is said of frames that cannot be taken.

The reply texts are RabbitMQ's: clients and test suites look for parts of them.
"""

from __future__ import annotations

import struct
from typing import Final

from leveret.amqp.constants import FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD
from leveret.amqp.events import DELIVER, PUBLISH, DeliverEvent, PublishEvent
from leveret.amqp.frames import octets
from leveret.amqp.methods import basic
from leveret.amqp.methods.failures import malformed
from leveret.errors import FrameError, NotImplementedByBroker, ReplyError, UnexpectedFrame

__all__ = ["method_key", "parse_deliver", "parse_publish", "unexpected_frame", "unknown_method"]

_KEY: Final = struct.Struct(">I")
_TAG_AND_BITS: Final = struct.Struct(">QB")


def method_key(payload: bytes) -> int:
    """Return class and method of a method frame, as in ``Method.KEY``."""
    if len(payload) < _KEY.size:
        raise FrameError(f"type {FRAME_METHOD}, all octets = {octets(payload)}: unknown_frame")
    key: int = _KEY.unpack_from(payload)[0]
    return key


def parse_publish(number: int, payload: bytes) -> PublishEvent:
    """Read the arguments of basic.publish; the event still lacks header and body."""
    if not _is_route(payload, 6, len(payload) - 1):
        raise malformed(basic.Publish, payload, 4)
    return (PUBLISH, number, payload[6:-1], payload[-1], b"", b"")


def parse_deliver(number: int, payload: bytes) -> DeliverEvent:
    """Read the arguments of basic.deliver; the event still lacks header and body."""
    tag_at = 5 + payload[4] if len(payload) > 4 else len(payload)
    if not _is_route(payload, tag_at + _TAG_AND_BITS.size, len(payload)):
        raise malformed(basic.Deliver, payload, 4)
    try:
        consumer_tag = payload[5:tag_at].decode()
    except UnicodeDecodeError as error:
        class_id, method_id = basic.Deliver.INDEX
        raise FrameError("Malformed UTF-8 in shortstr", class_id=class_id, method_id=method_id) from error
    tag, bits = _TAG_AND_BITS.unpack_from(payload, tag_at)
    return (DELIVER, number, consumer_tag, tag, bits & 1 == 1, payload[tag_at + _TAG_AND_BITS.size :], b"", b"")


def unexpected_frame(kind: int, payload: bytes) -> ReplyError:
    """Return the error for a frame that may not come now, or that is none at all."""
    shown = f"type {kind}, all octets = {octets(payload)}"
    if kind in (FRAME_METHOD, FRAME_HEADER, FRAME_BODY) or (kind == FRAME_HEARTBEAT and not payload):
        return UnexpectedFrame(shown)
    return FrameError(f"{shown}: unknown_frame")


def unknown_method(key: int) -> ReplyError:
    """Return the error for a method that AMQP 0-9-1 does not have."""
    class_id, method_id = key >> 16, key & 0xFFFF
    return NotImplementedByBroker(f"unknown method ({class_id},{method_id})", class_id=class_id, method_id=method_id)


def _is_route(payload: bytes, at: int, end: int) -> bool:
    """Return whether two short strings fill the payload from ``at`` to ``end``."""
    if at >= end:
        return False
    at += 1 + payload[at]
    return at < end and at + 1 + payload[at] == end
