"""From bytes to events: the hot path of both ends of a connection.

A publish or a delivery whose frames are all in the buffer is taken in one step from the raw bytes, an ack likewise, without
an object besides the event. Whatever is not so, or not well-formed, is handed on frame by frame: the slow path says what is
wrong with it. So both paths must agree, and ``tests/property/test_stream.py`` cuts conversations anywhere to see that.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from leveret.amqp.assembly import Channel
from leveret.amqp.channel import Role
from leveret.amqp.channels import Channels
from leveret.amqp.constants import FRAME_METHOD, FRAME_OVERHEAD
from leveret.amqp.events import ACK, DELIVER, PUBLISH, Event
from leveret.amqp.frames import frame
from leveret.amqp.methods import basic, connection
from leveret.errors import FrameError, ReplyError

__all__ = ["Reader"]

_FRAME_START: Final = struct.Struct(">BHI")
_METHOD_START: Final = struct.Struct(">BHII")
_HEADER_START: Final = struct.Struct(">BHIIQ")
_TAG_AND_BITS: Final = struct.Struct(">QB")

_NO_METHOD: Final = -1
_CLOSE_OK: Final = connection.CloseOk().encode()
_CLOSE_OK_FRAME: Final = frame(FRAME_METHOD, 0, _CLOSE_OK)


class Reader:
    """The bytes that have come and are not yet events. ``payload_max`` is the limit of a frame's payload at this moment.

    ``take_frame(kind, channel, payload)`` takes a frame the slow way and puts what it means into ``pending``, where the
    caller's own doings may leave events too; ``fail`` is told of frames whose end cannot be found.
    """

    def __init__(
        self,
        role: Role,
        channels: Channels,
        *,
        payload_max: int,
        body_size_max: int,
        pending: deque[Event],
        take_frame: Callable[[int, int, bytes], None],
        fail: Callable[[ReplyError], None],
    ) -> None:
        self.payload_max = payload_max
        self._channels = channels
        self._body_size_max = body_size_max
        self._pending = pending
        self._take_frame = take_frame
        self._fail = fail
        self._publish_key = basic.Publish.KEY if role is Role.SERVER else _NO_METHOD
        self._deliver_key = basic.Deliver.KEY if role is Role.CLIENT else _NO_METHOD
        self._pieces: list[bytes] = []
        self._pieces_size = 0
        self._needed = 0
        self._in_step = True
        self._tail = b""

    def read(self, data: bytes) -> Iterator[Event]:
        """Yield what the bytes mean, together with those left over; each event is handled before the next frame is read."""
        pending = self._pending
        position = 0
        if self._pieces:
            self._pieces.append(data)
            self._pieces_size += len(data)
            if self._pieces_size >= self._needed:
                data = b"".join(self._pieces)
                self._pieces.clear()
            else:
                position = -1
        elif not self._in_step:
            self._look_for_close_ok(data)
            position = -1
        end = len(data)

        publish_key, deliver_key, ack_key = self._publish_key, self._deliver_key, basic.Ack.KEY
        unpack_frame, unpack_method = _FRAME_START.unpack_from, _METHOD_START.unpack_from
        unpack_header, unpack_tag = _HEADER_START.unpack_from, _TAG_AND_BITS.unpack_from
        get_channel, get_consumer_tag = self._channels.in_use.get, self._channels.consumer_tags.get
        payload_max = self.payload_max
        body_max = min(payload_max, self._body_size_max)
        last_number = -1
        in_use: Channel | None = None  # the channel last_number

        while position >= 0:
            left = end - position
            if left >= 11:
                # Of a frame that is no method, or is too short for one, the key is nonsense, and nothing below believes it.
                kind, number, size, key = unpack_method(data, position)
            elif left >= 8:
                kind, number, size = unpack_frame(data, position)
                key = _NO_METHOD
            else:
                self._keep(data, position, 8)
                break
            if size > payload_max:
                self._lose_step(f"{{frame_too_large,{size},{payload_max - FRAME_OVERHEAD}}}", kind, data[position:])
                break
            stop = position + size + 8
            if stop > end:
                self._keep(data, position, size + 8)
                break
            if data[stop - 1] != 0xCE:
                self._lose_step(f"{{invalid_frame_end_marker,{data[stop - 1]}}}", kind, data[position:])
                break

            if kind == 1:
                if number != last_number:
                    in_use = get_channel(number)
                    last_number = number
                if in_use is not None and in_use.ready:  # asked every time: the caller may have closed it since the last
                    if key == ack_key:
                        if size == 13:
                            tag, bits = unpack_tag(data, position + 11)
                            position = stop
                            yield (ACK, number, tag, bits & 1)
                            continue
                    elif key == publish_key:
                        if stop + 22 <= end:
                            next_kind, next_number, header_size, class_and_weight, body_size = unpack_header(data, stop)
                            body_at = stop + header_size + 15
                            next_position = body_at + body_size + 1 if body_size else body_at - 7
                            at = position + 14 + data[position + 13]
                            if (
                                next_position <= end
                                and next_kind == 2
                                and next_number == number
                                and class_and_weight == 0x3C0000
                                and 14 <= header_size <= payload_max
                                and body_size <= body_max
                                and at + 2 < stop
                                and at + 3 + data[at] == stop
                                and data[body_at - 8] == 0xCE
                                and data[next_position - 1] == 0xCE
                                and (not body_size or unpack_frame(data, body_at - 7) == (3, number, body_size))
                            ):
                                route_at = position + 13
                                position = next_position
                                yield (
                                    PUBLISH,
                                    number,
                                    data[route_at : stop - 2],
                                    data[stop - 2],
                                    data[stop + 7 : body_at - 8],
                                    data[body_at : next_position - 1],
                                )
                                continue
                    elif key == deliver_key and stop + 22 <= end:
                        next_kind, next_number, header_size, class_and_weight, body_size = unpack_header(data, stop)
                        body_at = stop + header_size + 15
                        next_position = body_at + body_size + 1 if body_size else body_at - 7
                        tag_at = position + 12 + data[position + 11]
                        at = tag_at + 10 + data[tag_at + 9] if tag_at + 9 < stop else stop
                        consumer_tag = get_consumer_tag(data[position + 12 : tag_at])
                        if (
                            next_position <= end
                            and next_kind == 2
                            and next_number == number
                            and class_and_weight == 0x3C0000
                            and 14 <= header_size <= payload_max
                            and body_size <= body_max
                            and consumer_tag is not None
                            and at + 1 < stop
                            and at + 2 + data[at] == stop
                            and data[body_at - 8] == 0xCE
                            and data[next_position - 1] == 0xCE
                            and (not body_size or unpack_frame(data, body_at - 7) == (3, number, body_size))
                        ):
                            tag, bits = unpack_tag(data, tag_at)
                            route_at = tag_at + 9
                            position = next_position
                            yield (
                                DELIVER,
                                number,
                                consumer_tag,
                                tag,
                                bits & 1 == 1,
                                data[route_at : stop - 1],
                                data[stop + 7 : body_at - 8],
                                data[body_at : next_position - 1],
                            )
                            continue

            self._take_frame(kind, number, data[position + 7 : stop - 1])
            position = stop
            while pending:
                yield pending.popleft()
            payload_max = self.payload_max
            body_max = min(payload_max, self._body_size_max)
            last_number = -1

        while pending:
            yield pending.popleft()

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        """Put an incomplete frame aside until it has grown to ``needed`` bytes."""
        if position < len(data):
            self._pieces.append(data[position:])
        self._pieces_size = len(data) - position
        self._needed = needed

    def _lose_step(self, reason: str, kind: int, rest: bytes) -> None:
        """Stop reading frames: where the next one begins is unknown."""
        self._in_step = False
        self._fail(FrameError(f"type {kind}, all octets = <<>>: {reason}"))
        self._look_for_close_ok(rest)

    def _look_for_close_ok(self, data: bytes) -> None:
        # A peer that answers our connection.close sends close-ok last, whatever comes before it.
        seen = self._tail + data
        if _CLOSE_OK_FRAME in seen:
            self._take_frame(FRAME_METHOD, 0, _CLOSE_OK)
        self._tail = seen[1 - len(_CLOSE_OK_FRAME) :]
