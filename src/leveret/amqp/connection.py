"""The AMQP 0-9-1 conversation without I/O, for either end of a connection.

The caller owns the socket and the clock; five calls are the whole contract::

    bytes from the peer ──► receive_data(data, now_s) ──► events, one at a time
    the caller's wishes ──► send, write, fail, close ──► data_to_send() ──► bytes for the peer
    next_deadline_s() ──► when the time has come ──► handle_deadline(now_s) ──► events

Whatever the caller does while it handles an event counts before the next frame is looked at. Events that a call causes
(CLOSED after the caller's connection.close-ok) come from the generator that is running, or else from ``handle_deadline``,
which ``next_deadline_s`` then asks for at once. When the peer broke a rule, connection.close is sent and ``is_open`` is
false from then on; CLOSED follows when the peer has answered, has gone or has taken too long.

``receive_data`` is the hot path of the broker. A publish or a delivery whose frames are all in the buffer is taken in one
step, from the raw bytes, without the channel's ``Channel`` being written to; every other frame takes the slow path below it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from leveret.amqp import channel as channels
from leveret.amqp import handshake
from leveret.amqp.assembly import Channel
from leveret.amqp.channel import ChannelState, Role
from leveret.amqp.constants import (
    FRAME_BODY,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_MIN_SIZE,
    FRAME_OVERHEAD,
    PROTOCOL_HEADER,
    REPLY_SUCCESS,
)
from leveret.amqp.events import (
    ACK,
    CLOSED,
    DELIVER,
    LOGIN,
    METHOD,
    MULTIPLE_BIT,
    NACK_BIT,
    OPENED,
    PUBLISH,
    REQUEUE_BIT,
    AckEvent,
    ClosedEvent,
    DeliverEvent,
    Event,
    LoginEvent,
    MethodEvent,
    OpenedEvent,
    PublishEvent,
)
from leveret.amqp.frames import HEARTBEAT_FRAME, content_frames, frame, octets
from leveret.amqp.handshake import ClientOptions, ConnectionState, ServerOptions
from leveret.amqp.heartbeats import HeartbeatTimer
from leveret.amqp.methods import METHODS, Method, basic, channel, connection
from leveret.amqp.methods.failures import malformed
from leveret.amqp.tables import Table
from leveret.errors import (
    BrokerUnavailable,
    ChannelError,
    ChannelReplyError,
    FrameError,
    LeveretError,
    LocalProtocolError,
    NotAllowed,
    NotImplementedByBroker,
    RemoteProtocolError,
    ReplyError,
    UnexpectedFrame,
    reply_error,
)

__all__ = [
    "ACK",
    "BODY_SIZE_MAX",
    "CLOSED",
    "DELIVER",
    "LOGIN",
    "METHOD",
    "MULTIPLE_BIT",
    "NACK_BIT",
    "OPENED",
    "PUBLISH",
    "REQUEUE_BIT",
    "AckEvent",
    "ChannelState",
    "ClosedEvent",
    "Connection",
    "ConnectionState",
    "DeliverEvent",
    "Event",
    "LoginEvent",
    "MethodEvent",
    "OpenedEvent",
    "PublishEvent",
    "Role",
]

BODY_SIZE_MAX: Final = 128 << 20
"""The largest body taken by default: RabbitMQ's ``max_message_size`` up to 3.13."""

_CHANNEL_NUMBER_MAX: Final = 65535
_SIZE_MAX: Final = 0xFFFFFFFF
_CONSUMER_TAGS_MAX: Final = 4096

_FRAME_START: Final = struct.Struct(">BHI")
_METHOD_START: Final = struct.Struct(">BHII")
_HEADER_START: Final = struct.Struct(">BHIIQ")
_KEY: Final = struct.Struct(">I")
_TAG_AND_BITS: Final = struct.Struct(">QB")

_BASIC_WEIGHTLESS: Final = basic.Publish.INDEX[0] << 16
_SETTLEMENT_SIZE: Final = 13
_NO_METHOD: Final = -1
_CLOSE_OK_FRAME: Final = frame(FRAME_METHOD, 0, connection.CloseOk().encode())
_PROTOCOL_HEADERS: Final = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
"""AMQP 0-9-1's header and the one of 0-9, which every RabbitMQ takes as the same."""


class Connection:
    """One end of a connection; make it with ``Connection.client`` or ``Connection.server``, then call ``start``."""

    def __init__(
        self,
        options: ClientOptions | ServerOptions,
        *,
        peer: str,
        body_size_max: int,
        handshake_timeout_s: float,
        silent_close_delay_s: float,
    ) -> None:
        self.role = Role.CLIENT if isinstance(options, ClientOptions) else Role.SERVER
        self.state = ConnectionState.AWAITING_START
        self.peer_properties: Table = {}
        self.channel_max = options.channel_max
        self.frame_max = options.frame_max
        self.heartbeat_s = options.heartbeat_s
        self._options = options
        self._peer = peer
        self._peer_role = self.role.peer
        self._body_size_max = body_size_max
        self._silent_close_delay_s = silent_close_delay_s

        self._channels: dict[int, Channel] = {}
        self._consumer_tags: dict[bytes, str] = {}
        self._pending: deque[Event] = deque()
        self._out: list[bytes] = []
        self.write: Callable[[bytes], None] = self._out.append
        """Queue frames already made for this connection, unchecked: the hot path of both ends."""

        self._pieces: list[bytes] = []
        self._pieces_size = 0
        self._needed = 0
        self._payload_max = self._handshake_payload_max()
        self._in_step = True
        self._tail = b""
        self._finished = False

        self._now_s = 0.0
        self._deadline_s: float | None = None
        self._delay_s: float | None = handshake_timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._timer: HeartbeatTimer | None = None
        self._closing_error: LeveretError | None = None

    @classmethod
    def client(
        cls,
        *,
        username: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        client_properties: Table | None = None,
        mechanism: str = "PLAIN",
        heartbeat_s: int = 60,
        channel_max: int = 2047,
        frame_max: int = 131072,
        body_size_max: int = BODY_SIZE_MAX,
        handshake_timeout_s: float = handshake.HANDSHAKE_TIMEOUT_S,
        peer: str = "the broker",
    ) -> Connection:
        """Make the client's end; ``peer`` names the broker in errors. Capabilities are added to the properties."""
        options = ClientOptions(
            username=username,
            password=password,
            vhost=vhost,
            properties=client_properties or {},
            mechanism=mechanism,
            heartbeat_s=heartbeat_s,
            channel_max=channel_max,
            frame_max=frame_max,
        )
        return cls(
            options,
            peer=peer,
            body_size_max=body_size_max,
            handshake_timeout_s=handshake_timeout_s,
            silent_close_delay_s=handshake.SILENT_CLOSE_DELAY_S,
        )

    @classmethod
    def server(
        cls,
        server_properties: Table,
        mechanisms: Sequence[str] = ("PLAIN", "AMQPLAIN"),
        *,
        heartbeat_s: int = 60,
        channel_max: int = 2047,
        frame_max: int = 131072,
        body_size_max: int = BODY_SIZE_MAX,
        handshake_timeout_s: float = handshake.HANDSHAKE_TIMEOUT_S,
        silent_close_delay_s: float = handshake.SILENT_CLOSE_DELAY_S,
        peer: str = "the client",
    ) -> Connection:
        """Make the server's end; ``server_properties`` go out as given, capabilities included."""
        options = ServerOptions(
            properties=server_properties,
            mechanisms=tuple(mechanisms),
            heartbeat_s=heartbeat_s,
            channel_max=channel_max,
            frame_max=frame_max,
        )
        return cls(
            options,
            peer=peer,
            body_size_max=body_size_max,
            handshake_timeout_s=handshake_timeout_s,
            silent_close_delay_s=silent_close_delay_s,
        )

    # ------------------------------------------------------------------------------------------- what is known

    @property
    def is_open(self) -> bool:
        """Whether channels can be opened and used."""
        return self.state is ConnectionState.RUNNING

    @property
    def channels(self) -> Collection[int]:
        """The channel numbers in use: opening, open or closing. A live view."""
        return self._channels.keys()

    def channel_state(self, number: int) -> ChannelState:
        """Return where a channel stands."""
        found = self._channels.get(number)
        return found.state if found is not None else ChannelState.IDLE

    def peer_can(self, capability: str) -> bool:
        """Return whether the peer announced a capability, such as ``consumer_cancel_notify``."""
        capabilities = self.peer_properties.get("capabilities")
        return isinstance(capabilities, dict) and capabilities.get(capability) is True

    # ------------------------------------------------------------------------------------------ the caller's wishes

    def start(self, now_s: float) -> None:
        """Begin: the handshake's time runs from here, and a client queues the protocol header."""
        self._now_s = now_s
        self._delay_s = None
        self._deadline_s = now_s + self._handshake_timeout_s
        if self.role is Role.CLIENT:
            self.write(PROTOCOL_HEADER)

    def accept_login(self) -> None:
        """Answer LOGIN: it is right."""
        options = self._options
        self._send_connection(
            connection.Tune(channel_max=options.channel_max, frame_max=options.frame_max, heartbeat=options.heartbeat_s)
        )

    def refuse_login(self, error: ReplyError) -> None:
        """Answer LOGIN: it is not right. A client that does not know this close hears nothing until the end (RabbitMQ)."""
        if self.peer_can("authentication_failure_close"):
            self.fail(error)
        else:
            self._refuse_silently(error)

    def open_ok(self) -> None:
        """Answer OPENED: the client may use the virtual host."""
        self._send_connection(connection.OpenOk())
        self._stop_deadline()

    def send(self, number: int, method: Method, header: bytes | None = None, body: bytes = b"") -> None:
        """Queue a method on a channel; header and body with methods that have content.

        Raises ``LocalProtocolError`` when the protocol forbids it now, or when it does not fit in a frame.
        """
        if number == 0:
            self._send_connection(method)
            return
        state = self.channel_state(number)
        next_state = channels.TRANSITIONS.get((state, self.role, type(method)))
        if next_state is None or self.state is not ConnectionState.RUNNING:
            raise LocalProtocolError(
                f"{method.NAME} cannot be sent by the {self.role.value} on channel {number}, which is {state.value};"
                f" the connection is {self.state.value}"
            )
        if (header is not None) != method.HAS_CONTENT:
            raise LocalProtocolError(f"{method.NAME} {'needs' if method.HAS_CONTENT else 'has no'} content")
        if state is ChannelState.IDLE:
            self._check_new_channel(number)
        frames = self._method_frame(number, method)
        if header is not None:
            frames += content_frames(number, header, body, self.frame_max)
        self.write(frames)
        if next_state is not state:
            self._move(number, next_state)

    def fail(self, error: ReplyError, number: int = 0) -> None:
        """Close the channel, or for a hard error or channel 0 the connection, for this reason; ignored when it is closing."""
        if number != 0 and isinstance(error, ChannelReplyError):
            failed = self._channels.get(number)
            if failed is not None and failed.state is ChannelState.OPEN and self.state is ConnectionState.RUNNING:
                self.send(number, channel.Close(error.reply_code, error.reply_text, error.class_id, error.method_id))
            return
        if self.state is ConnectionState.AWAITING_START:
            self._finish(error)
        elif (self.state, self.role, connection.Close) in handshake.TRANSITIONS and self._closing_error is None:
            self._start_closing(connection.Close(error.reply_code, error.reply_text, error.class_id, error.method_id), error)

    def close(self) -> None:
        """Close the connection cleanly; CLOSED follows. Does nothing when it is closing already."""
        if self.state is ConnectionState.AWAITING_START:
            self._finish(None)
        elif self.state not in _ENDING:
            self._start_closing(connection.Close(REPLY_SUCCESS, "Goodbye", 0, 0), None)

    def set_reading(self, reading: bool, now_s: float) -> None:
        """Say that the caller stopped reading from the peer, or goes on: meanwhile silence is not the peer's death."""
        if self._timer is not None:
            self._timer.set_reading(reading, now_s)

    def data_to_send(self) -> bytes:
        """Return everything queued since the last call."""
        out = self._out
        if not out:
            return b""
        if self._timer is not None:
            self._timer.sent_s = self._now_s
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    # --------------------------------------------------------------------------------------------------- time

    def next_deadline_s(self) -> float | None:
        """Return when to call ``handle_deadline``; None: nothing is waiting for time."""
        if self._pending or self._delay_s is not None:
            return self._now_s
        deadline_s = self._deadline_s
        if self._timer is not None and self.state is not ConnectionState.CLOSED:
            tick_s = self._timer.next_deadline_s()
            return tick_s if deadline_s is None or tick_s < deadline_s else deadline_s
        return deadline_s

    def handle_deadline(self, now_s: float) -> list[Event]:
        """Do what is due, heartbeats and time limits; calling too early or too late does no harm."""
        self._now_s = now_s
        if self._delay_s is not None:
            # A limit set between two calls that know the time begins now.
            self._deadline_s, self._delay_s = now_s + self._delay_s, None
        if self._deadline_s is not None and now_s >= self._deadline_s:
            self._deadline_passed()
        if self._timer is not None and self.state not in _ENDED:
            send, dead = self._timer.tick(now_s)
            if dead:
                self._lost(f"missed heartbeats from {self._peer}, timeout: {self.heartbeat_s} s")
            elif send:
                self.write(HEARTBEAT_FRAME)
        events = list(self._pending)
        self._pending.clear()
        return events

    # --------------------------------------------------------------------------------------- what the peer sends

    def receive_data(self, data: bytes, now_s: float) -> Iterator[Event]:
        """Take bytes from the peer, b"" at the end of the stream, and yield what they mean; always exhaust it."""
        self._now_s = now_s
        if self._timer is not None:
            self._timer.received = True
        position = self._begin(data)
        if self._pieces and position >= 0:
            data = b"".join(self._pieces)
            self._pieces.clear()
        end = len(data)

        is_server = self.role is Role.SERVER
        publish_key = basic.Publish.KEY if is_server else _NO_METHOD
        deliver_key = _NO_METHOD if is_server else basic.Deliver.KEY
        ack_key = basic.Ack.KEY
        unpack_frame, unpack_method = _FRAME_START.unpack_from, _METHOD_START.unpack_from
        unpack_header, unpack_tag = _HEADER_START.unpack_from, _TAG_AND_BITS.unpack_from
        get_channel, get_consumer_tag = self._channels.get, self._consumer_tags.get
        pending = self._pending
        payload_max = self._payload_max
        body_max = min(payload_max, self._body_size_max)
        last_number = -1
        in_use: Channel | None = None  # the channel of last_number

        while position >= 0:
            left = end - position
            if left >= 11:
                # The key of a frame that is no method, or is too short for one, is nonsense, and nothing below believes it.
                kind, number, size, key = unpack_method(data, position)
            elif left >= 8:
                kind, number, size = unpack_frame(data, position)
                key = _NO_METHOD
            else:
                self._keep(data, position, 8)
                break
            if size > payload_max:
                self._out_of_step(f"type {kind}, all octets = <<>>: {{frame_too_large,{size},{payload_max - FRAME_OVERHEAD}}}")
                break
            stop = position + size + 8
            if stop > end:
                self._keep(data, position, size + 8)
                break
            if data[stop - 1] != 0xCE:
                marker = data[stop - 1]
                self._out_of_step(f"type {kind}, all octets = <<>>: {{invalid_frame_end_marker,{marker}}}")
                break

            if kind == 1:
                if number != last_number:
                    in_use = get_channel(number)
                    last_number = number
                if in_use is not None and in_use.ready:  # asked for each message: the caller may have closed it since the last
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
                            position = next_position
                            yield (
                                DELIVER,
                                number,
                                consumer_tag,
                                tag,
                                bits & 1 == 1,
                                data[tag_at + 9 : stop - 1],
                                data[stop + 7 : body_at - 8],
                                data[body_at : next_position - 1],
                            )
                            continue

            event = self._take_frame(kind, number, data[position + 7 : stop - 1])
            position = stop
            if event is not None:
                yield event
            while pending:
                yield pending.popleft()
            if self.state in _ENDED:
                break
            payload_max = self._payload_max
            body_max = min(payload_max, self._body_size_max)
            last_number = -1

        while pending:
            yield pending.popleft()
        if self._delay_s is not None:
            self._deadline_s, self._delay_s = now_s + self._delay_s, None

    def _begin(self, data: bytes) -> int:
        """Return where the frames in new bytes begin (in ``_pieces``, where there are any), or -1 when nothing is to be read yet."""
        if not data:
            self._end_of_stream()
            return -1
        if self.state in _ENDED:
            return -1
        if not self._in_step:
            # The frames' borders are lost, but a peer that answers connection.close ends with close-ok.
            self._tail = (self._tail + data)[-len(_CLOSE_OK_FRAME) :]
            if self._tail == _CLOSE_OK_FRAME:
                self._finish(self._closing_error)
            return -1
        if self._pieces or self.state is ConnectionState.AWAITING_START:
            self._pieces.append(data)
            self._pieces_size += len(data)
            if self._pieces_size < self._needed:
                return -1
        if self.state is ConnectionState.AWAITING_START:
            return self._greeted(b"".join(self._pieces))
        return 0

    def _keep(self, data: bytes, position: int, needed: int) -> None:
        """Put an incomplete frame aside until it has grown to ``needed`` bytes."""
        if position < len(data):
            self._pieces.append(data[position:])
        self._pieces_size = len(data) - position
        self._needed = needed

    def _greeted(self, data: bytes) -> int:
        """Look at a peer's first bytes; return where its frames begin, -1: nowhere."""
        if self.role is Role.CLIENT:
            if data[0] == FRAME_METHOD:
                return 0
            self._finish(RemoteProtocolError(f"{self._peer} does not speak AMQP 0-9-1: it answered {data[:8]!r}"))
            return -1
        header = data[: len(PROTOCOL_HEADER)]
        if header not in _PROTOCOL_HEADERS:
            if len(header) < len(PROTOCOL_HEADER):
                self._needed = len(PROTOCOL_HEADER)
                return -1
            # "If the server rejects the protocol header it MUST write a valid protocol header and then close" (4.2.2).
            self.write(PROTOCOL_HEADER)
            self._finish(RemoteProtocolError(f"{self._peer} does not speak AMQP 0-9-1: it began with {header!r}"))
            return -1
        assert isinstance(self._options, ServerOptions)
        self._send_connection(handshake.make_start(self._options))
        return len(header)

    def _end_of_stream(self) -> None:
        if self.state.close_sent_by(self._peer_role) or self.state in _ENDING:
            self._finish(self._closing_error)
        elif self.role is Role.CLIENT:
            assert isinstance(self._options, ClientOptions)
            self._lost(handshake.lost_during(self.state, peer=self._peer, vhost=self._options.vhost))
        elif self.state is ConnectionState.AWAITING_START and not self._pieces:
            self._finish(None)  # somebody looked whether the port is open
        else:
            self._lost(f"{self._peer} closed the stream without connection.close")

    def _take_frame(self, kind: int, number: int, payload: bytes) -> Event | None:
        """Take one frame the slow way; what the peer did wrong closes the connection."""
        try:
            if number == 0:
                self._connection_frame(kind, payload)
                return None
            if self.state is ConnectionState.RUNNING:
                return self._channel_frame(kind, number, payload)
            if self.state in _ENDING:
                return None  # "frames are ignored until close-ok"
            raise _unexpected(kind, payload)
        except ReplyError as error:
            self.fail(error)
            return None

    def _connection_frame(self, kind: int, payload: bytes) -> None:
        if kind != FRAME_METHOD:
            if self.state in _ENDING or (kind == FRAME_HEARTBEAT and not payload):
                return
            raise _unexpected(kind, payload)
        key = _method_key(payload)
        method_type = METHODS.get(key)
        next_state = handshake.TRANSITIONS.get((self.state, self._peer_role, method_type)) if method_type is not None else None
        if method_type is None or next_state is None:
            if self.state in _ENDING:
                return
            if method_type is None:
                raise _unknown(key)
            class_id, method_id = method_type.INDEX
            raise ChannelError(
                f"unexpected method in connection state {self.state.value}", class_id=class_id, method_id=method_id
            )
        method = method_type.decode(payload, 4)
        self.state = next_state
        if isinstance(method, connection.Close):
            self._take_close(method)
        elif isinstance(method, connection.CloseOk):
            self._finish(self._closing_error)
        elif isinstance(self._options, ClientOptions):
            self._from_server(self._options, method)
        else:
            self._from_client(self._options, method)

    def _take_close(self, close: connection.Close) -> None:
        self._forget_channels()
        if self.role is Role.SERVER and self.state is ConnectionState.CLOSE_SENT_BY_CLIENT:
            self._stop_deadline()
            self._pending.append((METHOD, 0, close, None, None))
            return
        if self.state is ConnectionState.CLOSE_SENT_BY_SERVER:
            self._closing_error = reply_error(
                close.reply_code, close.reply_text, class_id=close.class_id, method_id=close.method_id
            )
        self._send_connection(connection.CloseOk())

    def _from_server(self, options: ClientOptions, method: Method) -> None:
        match method:
            case connection.Start():
                self.peer_properties = method.server_properties
                try:
                    self._send_connection(handshake.make_start_ok(options, method))
                except RemoteProtocolError as error:
                    self._finish(error)
            case connection.Tune():
                try:
                    tune_ok = handshake.make_tune_ok(options, method)
                except RemoteProtocolError as error:
                    self._finish(error)
                    return
                self._send_connection(tune_ok)
                self._tuned(tune_ok)
                self._send_connection(connection.Open(options.vhost))
            case connection.OpenOk():
                self._stop_deadline()
                self._pending.append((OPENED, self.peer_properties))
            case _:
                self._pending.append((METHOD, 0, method, None, None))

    def _from_client(self, options: ServerOptions, method: Method) -> None:
        match method:
            case connection.StartOk():
                self.peer_properties = method.client_properties
                if method.mechanism in options.mechanisms:
                    self._pending.append((LOGIN, method.mechanism, method.response, method.client_properties))
                else:
                    self._refuse_silently(RemoteProtocolError(f"unknown authentication mechanism {method.mechanism!r}"))
            case connection.TuneOk():
                refusal = handshake.tune_ok_refusal(options, method)
                if refusal is None:
                    self._tuned(method)
                else:
                    # "The server MUST close the connection without attempting a negotiated close" (1.4.2.6).
                    self._refuse_silently(RemoteProtocolError(refusal))
            case connection.Open():
                self._pending.append((OPENED, method.virtual_host))
            case _:
                self._pending.append((METHOD, 0, method, None, None))

    def _tuned(self, tune_ok: connection.TuneOk) -> None:
        self.channel_max, self.frame_max, self.heartbeat_s = tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat
        self._payload_max = self.frame_max or _SIZE_MAX
        if self.heartbeat_s:
            self._timer = HeartbeatTimer(self.heartbeat_s, self._now_s)

    def _channel_frame(self, kind: int, number: int, payload: bytes) -> Event | None:
        found = self._channels.get(number)
        state = found.state if found is not None else ChannelState.IDLE
        closing = state.close_sent_by(self.role)
        if kind != FRAME_METHOD:
            if closing:
                return None
            if kind in (FRAME_HEADER, FRAME_BODY):
                if found is None:
                    raise UnexpectedFrame("expected method frame, got non method frame instead")
                return found.take_header(payload) if kind == FRAME_HEADER else found.take_body(payload)
            raise _unexpected(kind, payload)
        key = _method_key(payload)
        method_type = METHODS.get(key)
        if closing and method_type is not channel.Close and method_type is not channel.CloseOk:
            return None
        if found is not None and found.assembling:
            raise found.unexpected()
        if method_type is None:
            if state is ChannelState.OPEN:
                raise _unknown(key)
            raise ChannelError("expected 'channel.open'", class_id=key >> 16, method_id=key & 0xFFFF)
        next_state = channels.TRANSITIONS.get((state, self._peer_role, method_type))
        if next_state is None:
            raise channels.violation(state, method_type)
        if found is not None and state is ChannelState.OPEN:
            if method_type is basic.Publish:
                found.expect_content(_publish(number, payload), method_type.INDEX)
                return None
            if method_type is basic.Deliver:
                found.expect_content(self._deliver(number, payload), method_type.INDEX)
                return None
        method = method_type.decode(payload, 4)
        match method:
            case basic.Ack():
                return (ACK, number, method.delivery_tag, method.multiple * MULTIPLE_BIT)
            case basic.Nack():
                kind = NACK_BIT | method.multiple * MULTIPLE_BIT | method.requeue * REQUEUE_BIT
                return (ACK, number, method.delivery_tag, kind)
            case basic.Reject():
                return (ACK, number, method.delivery_tag, NACK_BIT | method.requeue * REQUEUE_BIT)
            case channel.Open():
                self._take_open(number)
            case channel.Close():
                self._move(number, next_state)
                if next_state is ChannelState.CLOSE_SENT_BY_BOTH or self.role is Role.CLIENT:
                    self.send(number, channel.CloseOk())
                if next_state is ChannelState.CLOSE_SENT_BY_BOTH:
                    return None
            case channel.CloseOk():
                self._move(number, next_state)
                if state is not ChannelState.CLOSE_SENT_BY_CLIENT:
                    return None
            case _ if method.HAS_CONTENT and found is not None:
                found.expect_content((METHOD, number, method, None, None), method_type.INDEX)
                return None
            case _:
                if next_state is not state:
                    self._move(number, next_state)
        return (METHOD, number, method, None, None)

    def _take_open(self, number: int) -> None:
        if self.channel_max and len(self._channels) >= self.channel_max:
            # Open channels are counted, whatever their numbers (RabbitMQ).
            count = len(self._channels)
            raise NotAllowed(f"number of channels opened ({count}) has reached the negotiated channel_max ({self.channel_max})")
        self._move(number, ChannelState.OPENING)
        self.send(number, channel.OpenOk())

    def _deliver(self, number: int, payload: bytes) -> DeliverEvent:
        """Parse the arguments of basic.deliver, as the hot path does but with its errors."""
        tag_at = 5 + payload[4] if len(payload) > 4 else 0
        if not tag_at or not _is_route(payload, tag_at + 9, len(payload)):
            raise malformed(basic.Deliver, payload, 4)
        name = payload[5:tag_at]
        try:
            consumer_tag = name.decode()
        except UnicodeDecodeError as error:
            raise FrameError("Malformed UTF-8 in shortstr", class_id=60, method_id=60) from error
        if len(self._consumer_tags) >= _CONSUMER_TAGS_MAX:
            self._consumer_tags.clear()
        self._consumer_tags[name] = consumer_tag
        tag, bits = _TAG_AND_BITS.unpack_from(payload, tag_at)
        return (DELIVER, number, consumer_tag, tag, bits & 1 == 1, payload[tag_at + 9 :], b"", b"")

    # ---------------------------------------------------------------------------------------------- what follows

    def _send_connection(self, method: Method) -> None:
        next_state = handshake.TRANSITIONS.get((self.state, self.role, type(method)))
        if next_state is None:
            raise LocalProtocolError(
                f"{method.NAME} cannot be sent by the {self.role.value} on a connection that is {self.state.value}"
            )
        if isinstance(method, connection.Close):
            self._start_closing(method, None)
            return
        self.write(self._method_frame(0, method))
        if next_state is ConnectionState.CLOSED:
            self._finish(self._closing_error)
        else:
            self.state = next_state

    def _method_frame(self, number: int, method: Method) -> bytes:
        payload = method.encode()
        if self.frame_max and len(payload) > self.frame_max - FRAME_OVERHEAD:
            raise LocalProtocolError(
                f"{method.NAME} takes {len(payload)} bytes; this connection's frames hold {self.frame_max - 8}"
            )
        return frame(FRAME_METHOD, number, payload)

    def _check_new_channel(self, number: int) -> None:
        number_max = self.channel_max or _CHANNEL_NUMBER_MAX
        if not 0 < number <= number_max:
            raise LocalProtocolError(f"a channel number of this connection is between 1 and {number_max}, not {number}")

    def _move(self, number: int, state: ChannelState) -> None:
        """Bring a channel into a state; idle channels are forgotten."""
        found = self._channels.get(number)
        if found is None:
            self._channels[number] = Channel(number, state, self._body_size_max)
            return
        found.move(state)
        if state is ChannelState.IDLE:
            del self._channels[number]

    def _forget_channels(self) -> None:
        for found in self._channels.values():
            found.move(ChannelState.IDLE)
        self._channels.clear()

    def _start_closing(self, close: connection.Close, error: LeveretError | None) -> None:
        self.write(self._method_frame(0, close))
        self.state = handshake.TRANSITIONS[self.state, self.role, connection.Close]
        self._closing_error = error
        self._forget_channels()
        self._set_deadline(min(self.heartbeat_s or handshake.CLOSING_TIMEOUT_S, handshake.CLOSING_TIMEOUT_S))

    def _out_of_step(self, text: str) -> None:
        """Give up reading: where the next frame begins is unknown."""
        self._in_step = False
        self.fail(FrameError(text))

    def _refuse_silently(self, error: LeveretError) -> None:
        self.state = ConnectionState.REFUSING
        self._closing_error = error
        self._set_deadline(self._silent_close_delay_s)

    def _lost(self, text: str) -> None:
        if self._closing_error is None:
            self._finish(BrokerUnavailable(text) if self.role is Role.CLIENT else RemoteProtocolError(text))
        else:
            self._finish(self._closing_error)

    def _finish(self, error: LeveretError | None) -> None:
        if not self._finished:
            self._finished = True
            self.state = ConnectionState.CLOSED
            self._forget_channels()
            self._stop_deadline()
            self._pending.append((CLOSED, error))

    def _deadline_passed(self) -> None:
        self._deadline_s = None
        if self.state is ConnectionState.REFUSING:
            self._finish(self._closing_error)
        elif self.state in _ENDING:
            self._lost(f"{self._peer} did not answer connection.close")
        else:
            limit_s = self._handshake_timeout_s
            self._lost(f"{self._peer} did not open the connection within {limit_s:g} s: it was {self.state.value}")

    def _set_deadline(self, delay_s: float) -> None:
        """Set a limit from now on; what now is, the next call that knows it says."""
        self._delay_s = delay_s
        self._deadline_s = None

    def _stop_deadline(self) -> None:
        self._delay_s = self._deadline_s = None

    def _handshake_payload_max(self) -> int:
        # A client trusts the broker it chose; a broker reads from anybody ("frames before tune-ok are at most 4096 bytes").
        return FRAME_MIN_SIZE if self.role is Role.SERVER else self.frame_max or _SIZE_MAX


_ENDED: Final = frozenset({ConnectionState.REFUSING, ConnectionState.CLOSED})
_ENDING: Final = _ENDED | {
    ConnectionState.CLOSE_SENT_BY_CLIENT,
    ConnectionState.CLOSE_SENT_BY_SERVER,
    ConnectionState.CLOSE_SENT_BY_BOTH,
}


def _method_key(payload: bytes) -> int:
    if len(payload) < 4:
        raise FrameError(f"type 1, all octets = {octets(payload)}: unknown_frame")
    key: int = _KEY.unpack_from(payload)[0]
    return key


def _unexpected(kind: int, payload: bytes) -> ReplyError:
    """Return the error for a frame that may not come now, or that is none at all."""
    shown = f"type {kind}, all octets = {octets(payload)}"
    known = kind in (FRAME_METHOD, FRAME_HEADER, FRAME_BODY) or (kind == FRAME_HEARTBEAT and not payload)
    return UnexpectedFrame(shown) if known else FrameError(f"{shown}: unknown_frame")


def _unknown(key: int) -> ReplyError:
    class_id, method_id = key >> 16, key & 0xFFFF
    return NotImplementedByBroker(f"unknown method ({class_id},{method_id})", class_id=class_id, method_id=method_id)


def _is_route(payload: bytes, at: int, stop: int) -> bool:
    """Return whether two short strings fill the payload from ``at`` to ``stop``."""
    if at >= stop:
        return False
    at += 1 + payload[at]
    return at < stop and at + 1 + payload[at] == stop


def _publish(number: int, payload: bytes) -> PublishEvent:
    """Parse the arguments of basic.publish, as the hot path does but with its errors."""
    if not _is_route(payload, 6, len(payload) - 1):
        raise malformed(basic.Publish, payload, 4)
    return (PUBLISH, number, payload[6:-1], payload[-1], b"", b"")
