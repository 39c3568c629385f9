"""One client of the broker: its bytes to commands, the core's effects to bytes.

The protocol engine parses; publishes, acknowledgements and deliveries go between it and the core as plain tuples and
raw bytes. Whatever a client sends in one read is handled in one go and answered in one write.

A client that changes something durable is handled no further until the change is on disk: the engine's events are a
generator, which simply rests meanwhile.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from leveret.amqp.connection import ACK, CLOSED, LOGIN, METHOD, OPENED, PUBLISH, Connection, Event
from leveret.amqp.frames import content_frames
from leveret.amqp.methods import channel as channel_methods
from leveret.amqp.methods import connection as connection_methods
from leveret.amqp.methods.base import Method
from leveret.amqp.tables import Table
from leveret.broker.auth import MECHANISMS
from leveret.broker.core.effects import CONFIRM, DELIVER, Effect
from leveret.broker.core.session import OUTBOX_BYTES_MAX, Session
from leveret.errors import AccessRefused, ChannelReplyError, InternalError, LeveretError, ReplyError

if TYPE_CHECKING:
    from leveret.broker.server import BrokerServer

__all__ = ["ClientConnection"]

log = logging.getLogger("leveret.broker")

WRITE_BUFFER_BYTES_MAX: Final = 256 << 10
"""Unsent output above which a client's consumers wait."""
LAST_WORDS_TIMEOUT_S: Final = 10.0
"""How long a client has to take what was sent to it before its connection ended."""
UNREAD_BYTES_MAX: Final = 16 << 20
"""Unsent output above which nothing more is read from a client: it asks and does not listen."""
DEAF_TIMEOUT_S: Final = 60.0
"""How long a client with so much unsent output may take nothing of it; its heartbeats are not read any more."""

_FRAME: Final = struct.Struct(">BHI")
_DELIVER_TAIL: Final = struct.Struct(">QB")
_CONFIRM: Final = struct.Struct(">BHIIQBB")
_BASIC_DELIVER: Final = b"\x00\x3c\x00\x3c"
_BASIC_ACK: Final = (60 << 16) | 80
_FRAME_END: Final = b"\xce"


class ClientConnection(asyncio.Protocol):
    """The server's side of one TCP connection."""

    def __init__(self, server: BrokerServer) -> None:
        self._server = server
        self._loop = server.loop
        config = server.config
        self._engine = Connection.server(
            server.properties, MECHANISMS, heartbeat_s=config.heartbeat_s, handshake_timeout_s=config.handshake_timeout_s
        )
        self._transport: asyncio.Transport | None = None
        self._user = ""
        self._takes_cancel = False
        self._peer = "?"
        self._from_loopback = False
        self._events: Iterator[Event] | None = None
        self._unread: list[bytes] = []
        self._queued_bytes = 0
        self._is_resting = False
        self._is_unheard = False
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._deaf_timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None

    # ------------------------------------------------------------------------------------ asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the conversation: the client speaks first."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        peer = transport.get_extra_info("peername")
        if peer:
            self._peer = f"{peer[0]}:{peer[1]}"
            self._from_loopback = ipaddress.ip_address(peer[0]).is_loopback
        self._server.add(self)
        self._engine.start(self._loop.time())
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Handle what a client sent."""
        if self._is_over:
            return
        if self._is_resting:
            self._unread.append(data)
            return
        self._events = self._engine.receive_data(data, self._loop.time())
        self._handle_events()

    def eof_received(self) -> bool:
        """Close our side as well; nothing that was not yet sent could be read."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client: requeue what it held."""
        self._finish()
        self._disarm()
        if self._deaf_timer is not None:
            self._deaf_timer.cancel()
        self._server.remove(self)

    def pause_writing(self) -> None:
        """Give the client's consumers nothing more: it reads too slowly."""
        if self.session is not None:
            self.session.is_congested = True

    def resume_writing(self) -> None:
        """Go on: the client has caught up."""
        if self.session is not None:
            self.session.resume_output()
        if self._is_unheard:
            self._is_unheard = False
            self.proceed()
        self._set_reading()
        self._server.schedule_turn()

    # -------------------------------------------------------------------------------------------- input

    def _handle_events(self) -> None:
        """Obey the events at hand, up to a change that must first be on disk."""
        try:
            self._obey_events()
        except Exception:  # one client's surprise is not the others'
            self._crash()

    def _obey_events(self) -> None:
        events = self._events
        assert events is not None
        server = self._server
        broker = server.broker
        now_s = server.now_s()
        for event in events:
            session = self.session
            try:
                if event[0] == PUBLISH:
                    if session is not None and (channel := session.channels.get(event[1])) is not None:
                        channel.publish(event[2], event[3], event[4], event[5], now_s)
                elif event[0] == ACK:
                    if session is not None and (channel := session.channels.get(event[1])) is not None:
                        channel.settle(event[2], event[3], now_s)
                elif event[0] == METHOD:
                    # What was published before is on its way to consumers before anything counts the messages.
                    broker.deliver_due(now_s)
                    self._handle_method(event[1], event[2], now_s)
                    session = self.session
                    if session is not None and session.awaited_batch > broker.committed:
                        self._rest()
                        self._server.await_commit(self)
                        return
                    self._hand_output_to_engine()
                    if self._queued_bytes > OUTBOX_BYTES_MAX and not self._is_heard():
                        self._rest()
                        self._is_unheard = True
                        return
                elif event[0] == LOGIN:
                    self._login(event[1], event[2], event[3])
                elif event[0] == OPENED:
                    assert isinstance(event[1], str)
                    self._open(event[1])
                elif event[0] == CLOSED:
                    self._end(event[1])
            except ReplyError as error:
                self._fail(error, event[1] if event[0] in (PUBLISH, ACK, METHOD) and isinstance(event[1], int) else 0, now_s)
        self._events = None
        server.schedule_turn()
        if not self._engine.is_open and not self._is_over:
            # Not yet, or no longer: the engine has closed over what it could not read. Time limits change with each step.
            self._close_session(now_s)
            self._arm()
        self.write_output()
        if server.is_behind:
            self._set_reading()

    def _rest(self) -> None:
        """Handle nothing more of this client until ``proceed``."""
        self._is_resting = True
        self._set_reading()
        self._server.schedule_turn()

    def _is_heard(self) -> bool:
        """Send what a client has asked for so far; return whether it listens."""
        self._send(self._engine.data_to_send())
        return self._transport is None or self._transport.get_write_buffer_size() <= UNREAD_BYTES_MAX

    def proceed(self) -> None:
        """Go on: the change that the client waits for is on disk, or the client has listened."""
        if not self._is_resting:
            return
        self._is_resting = False
        if self._is_over:
            return
        self.write_output()
        if self._events is not None:
            self._handle_events()
        while self._unread and not self._is_resting:
            self.data_received(self._unread.pop(0))
        self._set_reading()

    def _set_reading(self) -> None:
        """Read from the client only while it listens itself and the disk keeps up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        unsent_bytes = transport.get_write_buffer_size()
        if unsent_bytes > UNREAD_BYTES_MAX and self._deaf_timer is None:
            self._deaf_timer = self._loop.call_later(DEAF_TIMEOUT_S, self._check_deaf, unsent_bytes)
        reads = not (self._is_resting or self._server.is_behind or unsent_bytes > UNREAD_BYTES_MAX)
        if reads:
            transport.resume_reading()
        else:
            transport.pause_reading()
        self._engine.set_reading(reads, self._loop.time())

    def _check_deaf(self, unsent_bytes: int) -> None:
        """Drop a client that has taken nothing since it had this much to read; nothing is added meanwhile."""
        self._deaf_timer = None
        if self._transport is not None and self._transport.get_write_buffer_size() >= unsent_bytes:
            log.warning("%s reads nothing, %d bytes wait for it: dropping its connection", self._peer, unsent_bytes)
            self.abort()
        else:
            self._set_reading()

    def reconsider_reading(self) -> None:
        """Read again, unless something else forbids it: the disk has caught up."""
        self._set_reading()

    def _handle_method(self, number: int, method: Method, now_s: float) -> None:
        session = self.session
        match method:
            case connection_methods.Close():
                self._close_session(now_s)  # a client that closes discards all but close-ok; so it is not even sent
                self._engine.send(0, connection_methods.CloseOk())
            case connection_methods.UpdateSecret():
                self._engine.send(0, connection_methods.UpdateSecretOk())
            case _ if session is None:
                return
            case channel_methods.Open():
                session.open_channel(number)
            case channel_methods.Close():
                session.close_channel(number, now_s)
                session.discard_output(number)
                session.close_ok(number)
            case channel_methods.CloseOk():
                session.close_channel(number, now_s)
            case _:
                session.handle(number, method, now_s)

    def _login(self, mechanism: str, response: bytes, client_properties: Table) -> None:
        capabilities = client_properties.get("capabilities")
        self._takes_cancel = isinstance(capabilities, dict) and capabilities.get("consumer_cancel_notify") is True
        try:
            self._user = self._server.users.login(mechanism, response, from_loopback=self._from_loopback)
        except AccessRefused as error:
            log.warning("login refused for %s using %s: %s", self._peer, mechanism, "; ".join(error.__notes__))
            self._engine.refuse_login(error)
        else:
            self._engine.accept_login()
        self._arm()

    def _open(self, vhost: str) -> None:
        self.session = self._server.open_session(self, vhost, self._user, takes_cancel=self._takes_cancel)
        self._engine.open_ok()
        self._arm()  # from the handshake's deadline to the first heartbeat
        log.debug("%s connected to vhost %s as %s", self._peer, vhost, self._user)

    # ---------------------------------------------------------------------------------------------- ends

    def _fail(self, error: ReplyError, number: int, now_s: float) -> None:
        """Close the channel or the connection over an error, behind everything that was to be sent before."""
        self._hand_output_to_engine()
        if isinstance(error, ChannelReplyError) and number:
            log.warning("closing channel %d of %s: %s", number, self._peer, error)
            if self.session is not None:
                self.session.close_channel(number, now_s)
        else:
            log.warning("closing the connection of %s: %s", self._peer, error)
            self._close_session(now_s)
        self._engine.fail(error, number)
        self._arm()

    def _end(self, error: LeveretError | None) -> None:
        if error is not None:
            log.info("%s: %s", self._peer, error)
        self._send(self._engine.data_to_send())
        self._finish()
        self._disarm()
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                # A peer that reads no more must not hold its connection, and what waits for it, for ever.
                self._timer = self._loop.call_later(LAST_WORDS_TIMEOUT_S, self._transport.abort)

    def _crash(self) -> None:
        """End this connection over an exception that nobody expected; the broker and its other clients go on."""
        log.exception("unexpected error while serving %s; closing its connection", self._peer)
        try:
            self._close_session(self._server.now_s())
            self._engine.fail(InternalError("unexpected error in the broker; its log has more"))
            self._end(None)
        except Exception:  # whatever state it left behind
            log.exception("the connection of %s could not be closed politely", self._peer)
            self.abort()

    def _close_session(self, now_s: float) -> None:
        """End the session; what it still had for the client is not sent: the client waits for it no more, or in vain."""
        if self.session is not None:
            session, self.session = self.session, None
            try:
                session.close(now_s)
            except Exception:  # one client's surprise is not the others'
                log.exception("unexpected error while ending the session of %s", self._peer)
            self._server.close_session(session)

    def _finish(self) -> None:
        self._is_over = True
        self._events = None
        self._unread.clear()
        self._close_session(self._server.now_s())

    def shut_down(self, error: ReplyError) -> None:
        """Close the connection from our side, telling the client why."""
        if not self._is_over:
            if not self._is_resting:
                # A resting client waits to hear of a change that is not on disk, and may never be.
                self._hand_output_to_engine()
            self._close_session(self._server.now_s())
            self._engine.fail(error, 0)
            self._send(self._engine.data_to_send())
            self._arm()

    def abort(self) -> None:
        """Drop the connection without another word."""
        if self._transport is not None:
            self._transport.abort()

    # --------------------------------------------------------------------------------------------- timer

    def _arm(self) -> None:
        """Look at the engine's next deadline when it comes; only as often as that, not at every read."""
        self._disarm()
        deadline_s = self._engine.next_deadline_s()
        if deadline_s is not None and not self._is_over:
            self._timer = self._loop.call_at(deadline_s, self._handle_deadline)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _handle_deadline(self) -> None:
        self._timer = None
        for event in self._engine.handle_deadline(self._loop.time()):
            if event[0] == CLOSED:
                self._end(event[1])
                return
        self._send(self._engine.data_to_send())
        self._arm()

    # -------------------------------------------------------------------------------------------- output

    def write_output(self) -> None:
        """Send what the core has for this client, and what the engine has queued, in one write."""
        if self._is_over or self._is_resting:
            return
        try:
            self._hand_output_to_engine()
        except Exception:  # one client's surprise is not the others'
            self._crash()
            return
        self._send(self._engine.data_to_send())
        session, transport = self.session, self._transport
        if transport is None:
            return
        size_bytes = transport.get_write_buffer_size()
        if session is not None and session.is_congested and size_bytes <= WRITE_BUFFER_BYTES_MAX:
            # The outbox was full, the socket is not: go on with the next turn.
            session.resume_output()
            self._server.schedule_turn()
        elif size_bytes > UNREAD_BYTES_MAX:
            self._set_reading()

    def _send(self, data: bytes) -> None:
        self._queued_bytes = 0
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _hand_output_to_engine(self) -> None:
        session = self.session
        if session is not None and session.outbox:
            self._queued_bytes += session.outbox_bytes
            self._encode(session.take_outbox())

    def _encode(self, effects: list[Effect]) -> None:
        """Frame the core's effects: deliveries and confirms straight to bytes, the rest through the engine."""
        engine = self._engine
        frame, deliver_tail, frame_max = _FRAME.pack, _DELIVER_TAIL.pack, engine.frame_max
        body_max = frame_max - 8 if frame_max else 1 << 62
        parts: list[bytes] = []
        extend = parts.extend
        for effect in effects:
            if effect[0] == DELIVER:
                _, number, tag_field, delivery_tag, redelivered, message = effect
                route, header, body = message.route, message.header, message.body
                size = len(body)
                extend(
                    (
                        frame(1, number, 13 + len(tag_field) + len(route)),
                        _BASIC_DELIVER,
                        tag_field,
                        deliver_tail(delivery_tag, redelivered),
                        route,
                        _FRAME_END,
                    )
                )
                if 0 < size <= body_max:
                    extend((frame(2, number, len(header)), header, _FRAME_END, frame(3, number, size), body, _FRAME_END))
                else:
                    parts.append(content_frames(number, header, body, frame_max))
            elif effect[0] == CONFIRM:
                parts.append(_CONFIRM.pack(1, effect[1], 13, _BASIC_ACK, effect[2], effect[3], 0xCE))
            else:
                if parts:
                    engine.write(b"".join(parts))
                    parts.clear()
                _, number, method, content_header, content = effect
                engine.send(number, method, content_header, content)
        if parts:
            engine.write(b"".join(parts))
