"""The AMQP 0-9-1 conversation without I/O, for either end of a connection.

The caller owns the socket and the clock; these calls are the whole contract::

    bytes from the peer ──► receive_data(data, now_s) ──► events, one at a time
    the caller's wishes ──► send, write, fail, close ──► data_to_send() ──► bytes for the peer
    next_deadline_s() ──► when the time has come ──► handle_deadline(now_s) ──► events

Whatever the caller does while it handles an event counts before the next frame is looked at. Events that a call causes
(CLOSED after the caller's connection.close-ok) come from the generator that is running, or else from ``handle_deadline``,
which ``next_deadline_s`` then asks for at once. When the peer broke a rule, connection.close is sent and ``is_open`` is
false from then on; CLOSED follows when the peer has answered, has gone or has taken too long.

Frames are told apart by ``leveret.amqp.reader``, which is the hot path; channels live in ``leveret.amqp.channels``. Here is
channel 0: the handshake, closing, time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from leveret.amqp import handshake, sasl
from leveret.amqp.channel import ChannelState, Role
from leveret.amqp.channels import Channels
from leveret.amqp.constants import FRAME_HEARTBEAT, FRAME_METHOD, FRAME_MIN_SIZE, FRAME_OVERHEAD, PROTOCOL_HEADER, REPLY_SUCCESS
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
    REJECT_BIT,
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
from leveret.amqp.frames import HEARTBEAT_FRAME, content_frames, frame
from leveret.amqp.handshake import ClientOptions, ConnectionState, ServerOptions
from leveret.amqp.heartbeats import HeartbeatTimer
from leveret.amqp.incoming import method_key, unexpected_frame, unknown_method
from leveret.amqp.methods import METHODS, Method, channel, connection
from leveret.amqp.reader import Reader
from leveret.amqp.tables import Table
from leveret.errors import (
    BrokerUnavailable,
    ChannelError,
    ChannelReplyError,
    LeveretError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyError,
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
    "REJECT_BIT",
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

_PAYLOAD_MAX: Final = 0xFFFFFFFF
_PROTOCOL_HEADERS: Final = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
"""AMQP 0-9-1's header and the one of 0-9, which every RabbitMQ takes as the same."""

_ENDED: Final = frozenset({ConnectionState.REFUSING, ConnectionState.CLOSED})
_ENDING: Final = _ENDED | {
    ConnectionState.CLOSE_SENT_BY_CLIENT,
    ConnectionState.CLOSE_SENT_BY_SERVER,
    ConnectionState.CLOSE_SENT_BY_BOTH,
}


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
        self._handshake_timeout_s = handshake_timeout_s
        self._silent_close_delay_s = silent_close_delay_s

        self._out: list[bytes] = []
        self.write: Callable[[bytes], None] = self._out.append
        """Queue frames already made for this connection, unchecked: the hot path of both ends."""
        self._pending: deque[Event] = deque()
        self._channels = Channels(self.role, channel_max=self.channel_max, body_size_max=body_size_max)
        # A client trusts the broker it chose. A server reads from anybody: "prior to the negotiation, frames are at most
        # frame-min-size" (4.2.3).
        self._reader = Reader(
            self.role,
            self._channels,
            payload_max=FRAME_MIN_SIZE if self.role is Role.SERVER else self.frame_max or _PAYLOAD_MAX,
            body_size_max=body_size_max,
            pending=self._pending,
            take_frame=self._take_frame,
            fail=self.fail,
        )
        self._greeting = b""
        self._closing_error: LeveretError | None = None
        self._closed = False

        self._now_s = 0.0
        self._deadline_s: float | None = None
        self._delay_s: float | None = handshake_timeout_s
        self._timer: HeartbeatTimer | None = None

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
        """Make the client's end; ``peer`` names the broker in errors. Capabilities are added to the properties.

        A heartbeat of 0 is none, a limit of 0 is the broker's. Raises ``ConfigurationError`` for a login that cannot be sent.
        """
        options = ClientOptions(
            vhost=vhost,
            properties=client_properties or {},
            mechanism=mechanism,
            response=sasl.build(mechanism, username, password),
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
        """The channel numbers in use: opening, open or closing; none once the connection is closing. A live view."""
        return self._channels.in_use.keys()

    def channel_state(self, number: int) -> ChannelState:
        """Return where a channel stands."""
        return self._channels.state(number)

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
        """Answer LOGIN: it is right. Ignored when the client has gone meanwhile."""
        if self.state not in _ENDING:
            self._send_connection(connection.Tune(self._options.channel_max, self._options.frame_max, self._options.heartbeat_s))

    def refuse_login(self, error: ReplyError) -> None:
        """Answer LOGIN: it is not right. A client that does not know this close hears nothing until the end (RabbitMQ)."""
        if self.peer_can("authentication_failure_close"):
            self.fail(error)
        elif self.state not in _ENDING:
            self._refuse_silently(error)

    def open_ok(self) -> None:
        """Answer OPENED: the client may use the virtual host. Ignored when the client has gone meanwhile."""
        if self.state not in _ENDING:
            self._send_connection(connection.OpenOk())
            self._stop_deadline()

    def send(self, number: int, method: Method, header: bytes | None = None, body: bytes = b"") -> None:
        """Queue a method on a channel; header and body with methods that have content.

        Raises ``LocalProtocolError`` when the protocol forbids it now, or when it does not fit in a frame.
        """
        if number == 0:
            self._send_connection(method)
            return
        if self.state is not ConnectionState.RUNNING:
            raise LocalProtocolError(f"{method.NAME} cannot be sent on a connection that is {self.state.value}")
        next_state = self._channels.check_send(number, method)
        if (header is not None) is not method.HAS_CONTENT:
            raise LocalProtocolError(f"{method.NAME} {'needs' if method.HAS_CONTENT else 'has no'} content")
        frames = self._method_frame(number, method)
        if header is not None:
            frames += content_frames(number, header, body, self.frame_max)
        self.write(frames)
        self._channels.move(number, next_state)

    def fail(self, error: ReplyError, number: int = 0) -> None:
        """Close the channel, or for a hard error or channel 0 the connection, for this reason; ignored when it is closing."""
        if number != 0 and isinstance(error, ChannelReplyError):
            if self.is_open and self._channels.state(number) is ChannelState.OPEN:
                self.send(number, channel.Close(error.reply_code, error.reply_text, error.class_id, error.method_id))
        elif self.state is ConnectionState.AWAITING_START:
            self._finish(error)
        elif self.state not in _ENDING:
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
        if self._timer is not None and self.state not in _ENDED:
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
        if not data:
            self._end_of_stream()
        elif self.state is ConnectionState.AWAITING_START:
            data = self._greet(data)
        return self._reader.read(data)

    def _greet(self, data: bytes) -> bytes:
        """Look at a peer's first bytes; return those that are frames."""
        if self.role is Role.CLIENT:
            if data[0] == FRAME_METHOD or self._greeting:
                self._greeting = data[:1]
                return data
            self._finish(RemoteProtocolError(f"{self._peer} does not speak AMQP 0-9-1: it answered {data[:8]!r}"))
            return b""
        self._greeting += data
        header = self._greeting[: len(PROTOCOL_HEADER)]
        if len(header) < len(PROTOCOL_HEADER):
            return b""
        if header not in _PROTOCOL_HEADERS:
            # "If the server rejects the protocol header, it MUST write a valid one and then close the socket" (4.2.2).
            self.write(PROTOCOL_HEADER)
            self._finish(RemoteProtocolError(f"{self._peer} does not speak AMQP 0-9-1: it began with {header!r}"))
            return b""
        assert isinstance(self._options, ServerOptions)
        self._send_connection(handshake.make_start(self._options))
        data, self._greeting = self._greeting[len(header) :], header
        return data

    def _end_of_stream(self) -> None:
        if self.state in _ENDING:
            self._finish(self._closing_error)
        elif self.role is Role.CLIENT:
            assert isinstance(self._options, ClientOptions)
            self._lost(handshake.lost_during(self.state, peer=self._peer, vhost=self._options.vhost))
        elif not self._greeting:
            self._finish(None)  # somebody looked whether the port is open
        else:
            self._lost(f"{self._peer} closed the stream without connection.close")

    def _take_frame(self, kind: int, number: int, payload: bytes) -> None:
        """Take one frame the slow way; what the peer did wrong closes the connection."""
        try:
            if number == 0:
                self._connection_frame(kind, payload)
            elif self.is_open:
                event, reply = self._channels.take_frame(kind, number, payload)
                if reply is not None:
                    self.send(number, reply)
                if event is not None:
                    self._pending.append(event)
            elif self.state not in _ENDING:  # while closing, frames are ignored until close-ok
                raise unexpected_frame(kind, payload)
        except ReplyError as error:
            self.fail(error)

    def _connection_frame(self, kind: int, payload: bytes) -> None:
        if kind != FRAME_METHOD:
            if self.state in _ENDING or (kind == FRAME_HEARTBEAT and not payload):
                return
            raise unexpected_frame(kind, payload)
        key = method_key(payload)
        method_type = METHODS.get(key)
        next_state = handshake.TRANSITIONS.get((self.state, self.role.peer, method_type)) if method_type is not None else None
        if method_type is None or next_state is None:
            if self.state in _ENDING:
                return
            if method_type is None:
                raise unknown_method(key)
            class_id, method_id = method_type.INDEX
            raise ChannelError(
                f"unexpected method in connection state {self.state.value}", class_id=class_id, method_id=method_id
            )
        try:
            method = method_type.decode(payload, 4)
        except ReplyError as error:
            if method_type is not connection.StartOk:
                raise
            # The usual text quotes the bytes, and there is a password in these.
            class_id, method_id = method_type.INDEX
            raise type(error)(f"cannot decode {method_type.NAME}", class_id=class_id, method_id=method_id) from None
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
        self._channels.forget()
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
        self._channels.channel_max = self.channel_max
        # RabbitMQ takes 8 bytes more than it should, and peers have come to rely on it: the whole frame_max as payload.
        self._reader.payload_max = self.frame_max or _PAYLOAD_MAX
        if self.heartbeat_s:
            self._timer = HeartbeatTimer(self.heartbeat_s, self._now_s)

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

    def _start_closing(self, close: connection.Close, error: LeveretError | None) -> None:
        self.write(self._method_frame(0, close))
        self.state = handshake.TRANSITIONS[self.state, self.role, connection.Close]
        self._closing_error = error
        self._channels.forget()
        self._set_deadline(min(self.heartbeat_s or handshake.CLOSING_TIMEOUT_S, handshake.CLOSING_TIMEOUT_S))

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
        if not self._closed:
            self._closed = True
            self.state = ConnectionState.CLOSED
            self._channels.forget()
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
