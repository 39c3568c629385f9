"""Consume a queue through thick and thin: when the broker goes away, wait and connect again.

    python examples/reconnecting_consumer.py [URL]

On pika's asyncio adapter, which reports every step by a callback. The steps of one connection, in order::

    connect ─► open a channel ─► declare exchange and queue ─► bind ─► basic.qos ─► basic.consume ─► deliveries
       │              │                                                                                  │
       └──────────────┴────────────── anything goes wrong ───────────────► Lost ◄──────────────────────┘

One :class:`Conversation` lives as long as one connection; :func:`run` starts the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exchange_type import ExchangeType

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
EXCHANGE = "message"
QUEUE = "text"
ROUTING_KEY = "example.text"
PREFETCH_COUNT = 1  # one message at a time; more let the network work while this program does
LONGEST_PAUSE_S = 30

log = logging.getLogger("consumer")


class Conversation:
    """One connection, from connecting to its end; then ``ended`` has an outcome: None when we ended it, else why it was lost."""

    def __init__(self, url: str) -> None:
        """Connect; what follows happens in the running event loop."""
        self.was_consuming = False
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._consumer_tag = ""
        self._connection = AsyncioConnection(
            pika.URLParameters(url),
            on_open_callback=self._open_channel,
            on_open_error_callback=lambda _connection, error: self._end(error),
            on_close_callback=lambda _connection, reason: self._end(reason),
            custom_ioloop=asyncio.get_running_loop(),
        )

    def _end(self, reason: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)

    # Each step asks for the next one when the broker has answered.

    def _open_channel(self, connection: AsyncioConnection) -> None:
        log.info("connected")
        connection.channel(on_open_callback=self._declare_exchange)

    def _declare_exchange(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _frame: channel.close())  # the queue was deleted under us
        channel.exchange_declare(EXCHANGE, ExchangeType.topic, callback=_then(self._declare_queue, channel))

    def _declare_queue(self, channel: Channel) -> None:
        channel.queue_declare(QUEUE, callback=_then(self._bind, channel))

    def _bind(self, channel: Channel) -> None:
        channel.queue_bind(QUEUE, EXCHANGE, ROUTING_KEY, callback=_then(self._limit, channel))

    def _limit(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=PREFETCH_COUNT, callback=_then(self._consume, channel))

    def _consume(self, channel: Channel) -> None:
        self.was_consuming = True
        self._consumer_tag = channel.basic_consume(QUEUE, self._on_message, callback=_then(_tell_ready))

    def _on_message(
        self, channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        log.info("received #%s from %s: %s", method.delivery_tag, properties.app_id, body.decode(errors="replace"))
        channel.basic_ack(method.delivery_tag)

    def _on_channel_closed(self, _channel: Channel, reason: Exception) -> None:
        log.info("the channel is closed: %s", reason)
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def stop(self) -> None:
        """Finish in good order: no more deliveries, then close."""
        if self._connection.is_open and self._channel is not None and self._channel.is_open and self._consumer_tag:
            self._channel.basic_cancel(self._consumer_tag, callback=_then(self._connection.close))
        elif self._connection.is_open:
            self._connection.close()
        else:
            self._end(None)


def _then(step: Callable[..., None], *arguments: Any) -> Callable[[Any], None]:
    """Make a callback that passes over the broker's answer and goes on with the next step."""
    return lambda _answer: step(*arguments)


def _tell_ready() -> None:
    log.info("consuming %s", QUEUE)


async def run(url: str) -> None:
    """Hold one conversation after the other until SIGINT or SIGTERM."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    pause_s = 0
    while not stopping.is_set():
        conversation = Conversation(url)
        stop_wanted = asyncio.ensure_future(stopping.wait())
        stop_wanted.add_done_callback(functools.partial(_stop_unless_cancelled, conversation))
        reason = await conversation.ended
        stop_wanted.cancel()
        if stopping.is_set():
            break
        # At once when the broker had served us; else the broker is not there yet, so wait a second longer each time.
        pause_s = 0 if conversation.was_consuming else min(pause_s + 1, LONGEST_PAUSE_S)
        log.warning("the connection is lost (%s); the next attempt follows in %d s", reason, pause_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), timeout=pause_s)
    log.info("stopped")


def _stop_unless_cancelled(conversation: Conversation, stop_wanted: asyncio.Future[Any]) -> None:
    if not stop_wanted.cancelled():
        conversation.stop()


def main(url: str) -> None:
    """Consume until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its tracebacks for a broker that is away say nothing new
    asyncio.run(run(url))


if __name__ == "__main__":
    main(*sys.argv[1:] or [DEFAULT_URL])
