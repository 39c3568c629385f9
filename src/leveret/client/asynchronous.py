"""The client of an event loop: one connection with its channels, for the worker's supervisor.

Nothing here makes a task or an object per frame: deliveries go straight from the socket's callback to the consumer's, and
acknowledgements, publishes and calls of one turn of the loop leave in one write. A connection is not opened again: when it is
lost, ``on_closed`` is called once, everything pending fails with the reason, and the owner makes another (``recovery``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final

from leveret.amqp.connection import ACK, DELIVER, METHOD, OPENED, Connection, Event
from leveret.amqp.frames import publish_frames
from leveret.amqp.methods import Method, channel, connection
from leveret.amqp.tables import Table
from leveret.amqp.uris import AMQPURL
from leveret.client.async_channel import AsyncChannel, Delivery
from leveret.client.identity import client_properties
from leveret.client.recovery import unavailable
from leveret.client.sockets import tls_context
from leveret.client.stream import Stream
from leveret.errors import AMQPError, BrokerUnavailable, LeveretError

__all__ = ["CLOSE_TIMEOUT_S", "AsyncChannel", "AsyncClient", "Delivery"]

CLOSE_TIMEOUT_S: Final = 2.0


class AsyncClient:
    """One connection; make it with ``connect``. Everything happens in its event loop's thread."""

    def __init__(self, url: AMQPURL, engine: Connection, on_closed: Callable[[LeveretError | None], None]) -> None:
        self.url = url
        self.generation = 0
        """Set by the owner; every delivery carries it."""
        self.blocked: str | None = None
        """Why the broker takes no messages at the moment; None: it does."""
        self._engine = engine
        self._is_connected = False
        self._on_closed = on_closed
        self._channels: dict[int, AsyncChannel] = {}
        self._unsettled: list[AsyncChannel] = []
        self._closed: asyncio.Future[LeveretError | None] = asyncio.get_running_loop().create_future()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stream = Stream(
            engine, peer=url.safe, on_event=self._on_event, on_closed=self._on_stream_closed, before_write=self._write_settlements
        )

    @classmethod
    async def connect(
        cls,
        url: AMQPURL,
        *,
        on_closed: Callable[[LeveretError | None], None],
        heartbeat_s: int = 60,
        timeout_s: float = 10.0,
        client_name: str = "leveret",
    ) -> AsyncClient:
        """Connect, log in and open the virtual host; ``on_closed`` is called once when that connection is over.

        Raises:
            BrokerUnavailable: it could not be done in time; the cause is the broker's reply code, where it sent one.
            ConfigurationError: the URL's options cannot be used.

        """
        engine = Connection.client(
            username=url.username,
            password=url.password,
            vhost=url.vhost,
            mechanism=url.query.get("auth_mechanism", "PLAIN").upper(),
            client_properties=client_properties(client_name),
            peer=url.safe,
            heartbeat_s=heartbeat_s,
        )
        client = cls(url, engine, on_closed)
        context = tls_context(url)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: client._stream, url.host, url.port, ssl=context)
                await client._opened
        except TimeoutError as error:
            limit = TimeoutError(f"no connection within {timeout_s:g} s")
            client._stream.abort(BrokerUnavailable(str(limit)))
            raise unavailable([(url, limit)]) from error
        except (OSError, AMQPError, BrokerUnavailable) as error:
            raise unavailable([(url, error)]) from error
        except BaseException:
            client._stream.abort(BrokerUnavailable("connecting was given up"))
            raise
        client._is_connected = True
        return client

    @property
    def is_open(self) -> bool:
        """Tell whether it can be used."""
        return self._engine.is_open and not self._stream.is_closed

    @property
    def server_properties(self) -> Table:
        """Return what the broker says of itself: product, version, capabilities."""
        return self._engine.peer_properties

    async def writable(self) -> None:
        """Return when the broker takes what is written: to be awaited by whoever publishes a great deal."""
        await self._stream.writable()

    async def open_channel(self) -> AsyncChannel:
        """Open a channel.

        Raises:
            BrokerUnavailable: the connection is gone, or no answer came in time.

        """
        number = next(number for number in count(1) if number not in self._engine.channels and number not in self._channels)
        opened = AsyncChannel(self, number)
        self._channels[number] = opened
        try:
            await opened.call(channel.Open())
        except BaseException:
            self._channels.pop(number, None)
            raise
        return opened

    async def close(self) -> None:
        """Close the connection; ``on_closed(None)`` has been called when this returns. Safe to call twice."""
        if not self._stream.is_closed:
            self._write_settlements()
            self._engine.close()
            self._stream.request_flush()
            await asyncio.wait([self._closed], timeout=CLOSE_TIMEOUT_S)
            self._stream.abort(BrokerUnavailable(f"{self.url.safe} did not answer connection.close"))

    # ------------------------------------------------------------------------------------------ for its channels

    def send(self, number: int, method: Method) -> None:
        """Queue a method, after the acknowledgements given before it."""
        if not self.is_open:
            raise self.lost()
        self._write_settlements()
        self._engine.send(number, method)
        self._stream.request_flush()

    def publish_frames(self, number: int, route: bytes, bits: int, header: bytes, body: bytes) -> None:
        """Queue a message."""
        self._engine.write(publish_frames(number, route, bits, header, body, self._engine.frame_max))
        self._stream.request_flush()

    def has_settlements(self, one: AsyncChannel) -> None:
        """Note that a channel has acknowledgements to write at the end of this turn."""
        self._unsettled.append(one)
        self._stream.request_flush()

    def forget_channel(self, number: int) -> None:
        """Note that a channel is closed: its number is free."""
        self._channels.pop(number, None)

    def lost(self) -> BrokerUnavailable:
        """Return the error for whoever finds the connection gone."""
        return BrokerUnavailable(f"the connection to {self.url.safe} is closed")

    # ------------------------------------------------------------------------------------------ from the stream

    def _write_settlements(self) -> None:
        if self._unsettled:
            for one in self._unsettled:
                self._engine.write(one.take_settlements())
            self._unsettled.clear()

    def _on_event(self, event: Event) -> None:
        if event[0] == DELIVER:
            if (one := self._channels.get(event[1])) is not None:
                one.on_delivery(event, self.generation)
        elif event[0] == ACK:
            if (one := self._channels.get(event[1])) is not None:
                one.on_confirm(event)
        elif event[0] == OPENED:
            if not self._opened.done():
                self._opened.set_result(None)
        elif event[0] == METHOD:
            _, number, method, header, body = event
            if number:
                if (one := self._channels.get(number)) is not None:
                    one.on_method(method, header or b"", body or b"")
            elif isinstance(method, connection.Blocked):
                self.blocked = method.reason
            elif isinstance(method, connection.Unblocked):
                self.blocked = None

    def _on_stream_closed(self, error: LeveretError | None) -> None:
        if not self._is_connected:
            if not self._opened.done():
                self._opened.set_exception(error or BrokerUnavailable("it closed the connection"))
                self._opened.exception()  # seen, should nobody be there to await it
            return
        for one in list(self._channels.values()):
            if error is None:
                one.on_close = None
            one.on_closed(error or self.lost())
        self._channels.clear()
        if not self._closed.done():
            self._closed.set_result(error)
            self._on_closed(error)
