"""One channel's state in the engine, and the message that is arriving on it in several frames (AMQP 0-9-1, 4.2.6).

::

    nothing ── publish, deliver, return, get-ok ──► header ── size > 0 ──► body ── all of it ──► nothing
                                                       └──── size 0: the message is whole ─────────┘

The object is reused from message to message; a message whose frames arrive together never comes here, see ``connection``.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final

from leveret.amqp.channel import ChannelState
from leveret.amqp.events import DELIVER, METHOD, PUBLISH, ContentEvent
from leveret.amqp.frames import octets
from leveret.errors import FrameError, UnexpectedFrame

__all__ = ["CONTENT_SIZE_MAX", "Channel"]

CONTENT_SIZE_MAX: Final = 512 << 20
"""RabbitMQ takes no larger body, whatever is configured."""

_HEADER: Final = struct.Struct(">HHQ")


class _Expects(Enum):
    NOTHING = "method"
    HEADER = "content header"
    BODY = "content body"


class Channel:
    """A channel in use. ``ready``: open and between two messages, all that the hot path asks."""

    __slots__ = (
        "_body",
        "_body_size",
        "_event",
        "_expects",
        "_header",
        "_index",
        "_remaining",
        "_size_max",
        "number",
        "ready",
        "state",
    )

    def __init__(self, number: int, state: ChannelState, size_max: int) -> None:
        self.number = number
        self.state = state
        self.ready = False
        self._size_max = min(size_max, CONTENT_SIZE_MAX)
        self._expects = _Expects.NOTHING
        self._index = (0, 0)
        self._event: ContentEvent | None = None
        self._header = b""
        self._body_size = 0
        self._remaining = 0
        # Not a list of the frames: a body sent byte by byte would take forty times its size.
        self._body = bytearray()

    def move(self, state: ChannelState) -> None:
        """Enter a state; leaving OPEN drops a message half received."""
        self.state = state
        self._reset()

    def expect_content(self, event: ContentEvent, index: tuple[int, int]) -> None:
        """Wait for the content of a method; ``event`` is what will be returned, still without header and body."""
        self.ready = False
        self._expects = _Expects.HEADER
        self._event = event
        self._index = index

    def take_header(self, payload: bytes) -> ContentEvent | None:
        """Take the payload of a header frame; return the event if that completes a message."""
        if len(payload) < _HEADER.size:
            raise FrameError(f"type 2, all octets = {octets(payload)}: unknown_frame")
        class_id, weight, size = _HEADER.unpack_from(payload)
        if self._expects is not _Expects.HEADER:
            raise self.unexpected()
        if class_id != self._index[0] and not weight:
            raise self._error(f"expected content header for class {self._index[0]}, got one for class {class_id} instead")
        if weight:
            raise self.unexpected()
        if size > self._size_max:
            raise FrameError(
                f"content body size {size} exceeds maximum allowed size {self._size_max}",
                class_id=self._index[0],
                method_id=self._index[1],
            )
        self._header = payload
        if not size:
            return self._complete(b"")
        self._expects = _Expects.BODY
        self._body_size = self._remaining = size
        return None

    def take_body(self, payload: bytes) -> ContentEvent | None:
        """Take the payload of a body frame; return the event if that completes a message."""
        if self._expects is not _Expects.BODY:
            raise self.unexpected()
        size = len(payload)
        if size > self._remaining:
            raise FrameError(
                "content body frame exceeds remaining content size", class_id=self._index[0], method_id=self._index[1]
            )
        self._remaining -= size
        if self._remaining:
            self._body += payload
            return None
        if size == self._body_size:
            return self._complete(payload)
        self._body += payload
        return self._complete(bytes(self._body))

    def unexpected(self) -> UnexpectedFrame:
        """Return the error for a frame other than the one expected now, with RabbitMQ's texts."""
        match self._expects:
            case _Expects.NOTHING:
                return UnexpectedFrame("expected method frame, got non method frame instead")
            case _Expects.HEADER:
                return self._error(f"expected content header for class {self._index[0]}, got non content header frame instead")
            case _Expects.BODY:
                return self._error("expected content body, got non content body frame instead")

    @property
    def assembling(self) -> bool:
        """Whether a message is half received: only its next frame may come."""
        return self._expects is not _Expects.NOTHING

    def _complete(self, body: bytes) -> ContentEvent:
        event, header = self._event, self._header
        assert event is not None, "content without its method"
        self._reset()
        if event[0] == PUBLISH:
            return (PUBLISH, event[1], event[2], event[3], header, body)
        if event[0] == DELIVER:
            return (DELIVER, event[1], event[2], event[3], event[4], event[5], header, body)
        return (METHOD, event[1], event[2], header, body)

    def _reset(self) -> None:
        self.ready = self.state is ChannelState.OPEN
        self._expects = _Expects.NOTHING
        self._event = None
        self._header = b""
        if self._body:
            self._body = bytearray()

    def _error(self, text: str) -> UnexpectedFrame:
        return UnexpectedFrame(text, class_id=self._index[0], method_id=self._index[1])
