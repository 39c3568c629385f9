"""The worker's connection to its broker: made, lost, made again, with a generation number for each.

::

    start ──▶ OPEN ──lost──▶ rounds over all URLs, with backoff and jitter, for ever ──▶ OPEN, generation + 1
                ▲                                                                          │
                └──────────────────────────────────────────────────────────────────────────┘

Whatever goes wrong on an open connection (its socket gone, the channel closed, a consumer cancelled by the broker) ends it,
and the one way back is a new one with new declarations and consumers: there is no half-repaired state.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from leveret.amqp.uris import AMQPURL
from leveret.client.asynchronous import AsyncChannel, AsyncClient
from leveret.client.recovery import all_unavailable, backoff_delays, rotated
from leveret.errors import BrokerUnavailable, LeveretError, RemoteProtocolError

__all__ = ["BrokerConnection", "ConnectionEvents", "ConnectionOptions"]

logger = logging.getLogger("leveret.worker")

_CANCELLED: Final = RemoteProtocolError("the broker cancelled a consumer: its queue was deleted, or a task took too long")


class ConnectionEvents(Protocol):
    """What the worker does when the connection comes and goes."""

    async def connection_opened(self, channel: AsyncChannel, generation: int) -> None:
        """Declare and consume; what is raised ends this connection."""
        ...

    def connection_lost(self, generation: int) -> None:
        """Hear that nothing of this generation can be settled any more."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to reach the broker."""

    resolve: Callable[[], Sequence[AMQPURL]]
    """Asked before every round, in a thread: the local broker may be somewhere else after it was restarted."""
    connect_timeout_s: float
    heartbeat_s: int
    client_name: str


class BrokerConnection:
    """The one connection of a worker; ``generation`` counts how often it was opened."""

    def __init__(self, options: ConnectionOptions, events: ConnectionEvents) -> None:
        self.generation = 0
        self.url: AMQPURL | None = None
        self._options = options
        self._events = events
        self._client: AsyncClient | None = None
        self._channel: AsyncChannel | None = None
        self._opened = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reconnecting: asyncio.Task[None] | None = None
        self._is_opening = False
        self._is_stopping = False

    async def start(self) -> None:
        """Connect for the first time.

        Raises:
            BrokerUnavailable: no URL answered; each is named with its reason, without its password.
            ReplyError: what the app declares cannot be declared.

        """
        await self._open()

    async def stop(self) -> None:
        """Close the connection in an orderly way, so that everything written is known to have arrived; safe to call twice."""
        self._is_stopping = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def channel(self) -> AsyncChannel:
        """Return the open channel, waiting for it while there is none."""
        while self._channel is None:
            await self._opened.wait()
        return self._channel

    def channel_of(self, generation: int) -> AsyncChannel | None:
        """Return the channel on which deliveries of a generation can be settled; ``None`` when that one is gone."""
        return self._channel if generation == self.generation else None

    async def _open(self) -> None:
        """Try every URL once, and open a channel with consumers on the first that answers."""
        urls = rotated(await asyncio.to_thread(self._options.resolve), self.url)
        failures: list[BrokerUnavailable] = []
        self._is_opening = True
        try:
            for url in urls:
                try:
                    await self._open_at(url)
                    return
                except BrokerUnavailable as error:
                    failures.append(error)
        finally:
            self._is_opening = False
        raise all_unavailable(failures)

    async def _open_at(self, url: AMQPURL) -> None:
        options = self._options
        generation = self.generation + 1
        client = await AsyncClient.connect(
            url,
            heartbeat_s=options.heartbeat_s,
            timeout_s=options.connect_timeout_s,
            client_name=options.client_name,
            on_closed=lambda error: self._lost(generation, error),
        )
        self.generation, self.url, self._client = generation, url, client
        try:
            channel = await client.open_channel()
            channel.on_close = lambda error: self._lost(generation, error)
            channel.on_cancel = lambda _tag: self._lost(generation, _CANCELLED)
            await channel.confirm_select()
            self._channel = channel
            self._opened.set()
            await self._events.connection_opened(channel, generation)
            if self._client is not client:
                raise BrokerUnavailable(f"the connection to {url.safe} was lost at once")
        except BaseException:
            self._forget(generation)
            await client.close()
            raise

    def _lost(self, generation: int, error: LeveretError | None) -> None:
        """Forget a connection, once, and begin to look for the next."""
        client = self._client
        if self._forget(generation) and not self._is_stopping and not self._is_opening:
            assert client is not None
            self._reconnecting = self._loop.create_task(self._reconnect(client, error))

    def _forget(self, generation: int) -> bool:
        """Return whether it was the connection in use; then it is so no longer."""
        if self._client is None or generation != self.generation:
            return False
        self._client = self._channel = None
        self._opened.clear()
        self._events.connection_lost(generation)
        return True

    async def _reconnect(self, lost: AsyncClient, error: LeveretError | None) -> None:
        at = self.url.safe if self.url is not None else "the broker"
        if isinstance(error, BrokerUnavailable):  # which says just that
            logger.warning("%s; reconnecting", error)
        else:
            logger.warning("the connection to %s was lost (%s); reconnecting", at, error or "it was closed")
        await lost.close()
        began_s = self._loop.time()
        attempts = 0
        told = ""
        for delay_s in backoff_delays(random.random):
            await asyncio.sleep(delay_s)
            attempts += 1
            try:
                await self._open()
            except LeveretError as reason:
                if str(reason) != told:
                    told = str(reason)
                    logger.warning("not reconnected yet, trying on: %s", told)
                continue
            assert self.url is not None
            logger.warning(
                "reconnected to %s after %.1f s (%d attempt%s)",
                self.url.safe,
                self._loop.time() - began_s,
                attempts,
                "" if attempts == 1 else "s",
            )
            return
