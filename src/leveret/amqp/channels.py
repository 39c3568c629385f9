"""The channels of one connection: which are in use, and what their frames mean.

The legality of methods is data, in ``leveret.amqp.channel``; here it is asked, for what comes and for what goes.
"""

from __future__ import annotations

from typing import Final

from leveret.amqp.assembly import Channel
from leveret.amqp.channel import TRANSITIONS, ChannelState, Role, violation
from leveret.amqp.constants import FRAME_BODY, FRAME_HEADER, FRAME_METHOD
from leveret.amqp.events import ACK, METHOD, MULTIPLE_BIT, NACK_BIT, REJECT_BIT, REQUEUE_BIT, ContentEvent, Event
from leveret.amqp.incoming import method_key, parse_deliver, parse_publish, unexpected_frame, unknown_method
from leveret.amqp.methods import METHODS, Method, basic, channel
from leveret.errors import ChannelError, LocalProtocolError, NotAllowed, UnexpectedFrame

__all__ = ["Channels"]

_NUMBER_MAX: Final = 65535
_CONSUMER_TAGS_MAX: Final = 4096


class Channels:
    """Every channel in use, by number; the connection sets ``channel_max`` when it is negotiated."""

    def __init__(self, role: Role, *, channel_max: int, body_size_max: int) -> None:
        self.in_use: dict[int, Channel] = {}
        """What is opening, open or closing; the hot path reads it."""
        self.consumer_tags: dict[bytes, str] = {}
        """Consumer tags seen in deliveries, so that they are decoded once."""
        self.channel_max = channel_max
        self._role = role
        self._body_size_max = body_size_max

    def state(self, number: int) -> ChannelState:
        """Return where a channel stands."""
        found = self.in_use.get(number)
        return found.state if found is not None else ChannelState.IDLE

    def forget(self) -> None:
        """Leave all channels: the connection is closing."""
        for found in self.in_use.values():
            found.move(ChannelState.IDLE)
        self.in_use.clear()

    def check_send(self, number: int, method: Method) -> ChannelState:
        """Return the state that sending a method leads to. Raises ``LocalProtocolError`` when it may not be sent now."""
        state = self.state(number)
        next_state = TRANSITIONS.get((state, self._role, type(method)))
        if next_state is None:
            raise LocalProtocolError(
                f"{method.NAME} cannot be sent by the {self._role.value} on channel {number}, which is {state.value}"
            )
        if state is ChannelState.IDLE:
            number_max = self.channel_max or _NUMBER_MAX
            if not 0 < number <= number_max:
                raise LocalProtocolError(f"a channel number of this connection is between 1 and {number_max}, not {number}")
        return next_state

    def move(self, number: int, state: ChannelState) -> None:
        """Bring a channel into a state; an idle channel is forgotten."""
        found = self.in_use.get(number)
        if found is None:
            self.in_use[number] = Channel(number, state, self._body_size_max)
        elif found.state is not state:
            found.move(state)
            if state is ChannelState.IDLE:
                del self.in_use[number]

    def take_frame(self, kind: int, number: int, payload: bytes) -> tuple[Event | None, Method | None]:
        """Take a frame; return what it means to the caller, and what must be sent on the channel for it.

        Raises ``ReplyError`` for what the peer must not send.
        """
        found = self.in_use.get(number)
        state = found.state if found is not None else ChannelState.IDLE
        closing = state.close_sent_by(self._role)
        if kind == FRAME_METHOD:
            method_type = METHODS.get(key := method_key(payload))
            if not closing or method_type is channel.Close or method_type is channel.CloseOk:
                return self._take_method(found, number, key, payload)
        elif not closing:
            return _take_content(found, kind, payload), None
        return None, None

    def _take_method(self, found: Channel | None, number: int, key: int, payload: bytes) -> tuple[Event | None, Method | None]:
        if found is not None and found.assembling:
            raise found.unexpected()
        state = found.state if found is not None else ChannelState.IDLE
        method_type = METHODS.get(key)
        if method_type is None:
            if state is ChannelState.OPEN:
                raise unknown_method(key)
            raise ChannelError("expected 'channel.open'", class_id=key >> 16, method_id=key & 0xFFFF)
        next_state = TRANSITIONS.get((state, self._role.peer, method_type))
        if next_state is None:
            raise violation(state, method_type)
        if found is not None and method_type.HAS_CONTENT:
            self._expect_content(found, method_type, payload)
            return None, None
        method = method_type.decode(payload, 4)
        match method:
            case basic.Ack():
                return (ACK, number, method.delivery_tag, method.multiple * MULTIPLE_BIT), None
            case basic.Nack():
                settlement = NACK_BIT | method.multiple * MULTIPLE_BIT | method.requeue * REQUEUE_BIT
                return (ACK, number, method.delivery_tag, settlement), None
            case basic.Reject():
                return (ACK, number, method.delivery_tag, NACK_BIT | REJECT_BIT | method.requeue * REQUEUE_BIT), None
            case channel.Open():
                self._check_open()
        self.move(number, next_state)
        event: Event = (METHOD, number, method, None, None)
        match method:
            case channel.Open():
                return event, channel.OpenOk()
            case channel.Close() if next_state is ChannelState.CLOSE_SENT_BY_BOTH:
                return None, channel.CloseOk()
            case channel.Close() if self._role is Role.CLIENT:
                return event, channel.CloseOk()
            case channel.CloseOk() if self._role is Role.SERVER:
                return None, None  # the server closes for an error only, and was done with the channel then
            case _:
                return event, None

    def _expect_content(self, found: Channel, method_type: type[Method], payload: bytes) -> None:
        event: ContentEvent
        if method_type is basic.Publish:
            event = parse_publish(found.number, payload)
        elif method_type is basic.Deliver:
            event = parse_deliver(found.number, payload)
            if len(self.consumer_tags) >= _CONSUMER_TAGS_MAX:
                self.consumer_tags.clear()
            self.consumer_tags[payload[5 : 5 + payload[4]]] = event[2]
        else:
            event = (METHOD, found.number, method_type.decode(payload, 4), None, None)
        found.expect_content(event, method_type.INDEX)

    def _check_open(self) -> None:
        # Channels are counted, whatever their numbers (RabbitMQ).
        count = len(self.in_use)
        if self.channel_max and count >= self.channel_max:
            raise NotAllowed(f"number of channels opened ({count}) has reached the negotiated channel_max ({self.channel_max})")


def _take_content(found: Channel | None, kind: int, payload: bytes) -> Event | None:
    if kind not in (FRAME_HEADER, FRAME_BODY):
        raise unexpected_frame(kind, payload)
    if found is None:
        raise UnexpectedFrame("expected method frame, got non method frame instead")
    return found.take_header(payload) if kind == FRAME_HEADER else found.take_body(payload)
