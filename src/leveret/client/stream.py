"""The engine on an asyncio transport: what is read becomes events, what is queued is written once per turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from leveret.amqp.connection import CLOSED, Connection, Event
from leveret.client.recovery import reason
from leveret.client.sockets import prepare
from leveret.errors import AMQPError, BrokerUnavailable, LeveretError

__all__ = ["Stream"]


class Stream(asyncio.Protocol):
    """One connection's transport, engine and timer.

    ``on_event`` takes every event but the last, ``on_closed`` is called once, when the connection is over (None: cleanly), and
    ``before_write`` may add to what is about to be written.
    """

    def __init__(
        self,
        engine: Connection,
        *,
        peer: str,
        on_event: Callable[[Event], None],
        on_closed: Callable[[LeveretError | None], None],
        before_write: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._peer = peer
        self._on_event = on_event
        self._on_closed = on_closed
        self._before_write = before_write
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flush_requested = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self.is_closed = False

    async def writable(self) -> None:
        """Return when the peer takes what is written; at once, unless it has fallen behind."""
        await self._writable.wait()

    def request_flush(self) -> None:
        """Have everything that this turn of the loop queues written in one go."""
        if not self._flush_requested:
            self._flush_requested = True
            self._loop.call_soon(self._flush)

    def abort(self, error: LeveretError) -> None:
        """Give the connection up without another word."""
        self._finish(error)

    # ------------------------------------------------------------------------------------------ from asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the conversation."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        prepare(transport.get_extra_info("socket"))
        self._engine.start(self._loop.time())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand out what the bytes mean."""
        on_event = self._on_event
        try:
            for event in self._engine.receive_data(data, self._loop.time()):
                if event[0] == CLOSED:
                    self._finish(event[1])
                else:
                    on_event(event)
        except AMQPError as error:  # the broker answered what nobody had asked
            self._finish(error)
        self.request_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say why, unless it is known already."""
        if not self.is_closed and exc is None:
            self.data_received(b"")
        if not self.is_closed:
            why = f": {reason(exc)}" if exc else ""
            self._finish(BrokerUnavailable(f"the connection to {self._peer} was lost{why}"))

    def pause_writing(self) -> None:
        """Keep what is queued: the peer does not take it as fast as we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Write what has been kept."""
        self._writable.set()
        self._flush()

    # ------------------------------------------------------------------------------------------ details

    def _flush(self) -> None:
        self._flush_requested = False
        if self._transport is None or self.is_closed or not self._writable.is_set():
            return
        self._before_write()
        if data := self._engine.data_to_send():
            self._transport.write(data)
        self._arm()

    def _arm(self) -> None:
        """Set the timer for the engine's next deadline. Traffic only moves it away, so a timer that is early is left alone."""
        deadline_s = self._engine.next_deadline_s()
        if deadline_s is not None and (self._timer is None or deadline_s < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        for event in self._engine.handle_deadline(self._loop.time()):
            if event[0] == CLOSED:
                self._finish(event[1])
            else:
                self._on_event(event)
        self._flush()
        if not self.is_closed:
            self._arm()

    def _finish(self, error: LeveretError | None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            if last := self._engine.data_to_send():
                self._transport.write(last)
            # A peer that does not read any more would keep a polite close waiting for ever.
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()
        self._writable.set()
        self._on_closed(error)
