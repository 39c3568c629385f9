"""Short forms around pika's blocking client, for what nearly every test of a broker does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika
import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from tests.support.waiting import wait_until

__all__ = ["Inbox", "Received", "channel_closed", "connection_closed", "get_when_there", "open_connection", "publish", "settle"]


class Received(NamedTuple):
    """A message as a consumer or basic.get received it."""

    method: spec.Basic.Deliver | spec.Basic.GetOk
    properties: spec.BasicProperties
    body: bytes


def open_connection(url: str, **changes: Any) -> pika.BlockingConnection:
    """Connect to a broker; ``changes`` are attributes of pika's parameters."""
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = 10
    parameters.blocked_connection_timeout = 30
    for name, value in changes.items():
        setattr(parameters, name, value)
    return pika.BlockingConnection(parameters)


@contextmanager
def channel_closed(code: int, text: str) -> Iterator[None]:
    """Expect the broker to close the channel with exactly this reply code and text."""
    with pytest.raises(ChannelClosedByBroker) as caught:
        yield
    assert (caught.value.reply_code, caught.value.reply_text) == (code, text)


@contextmanager
def connection_closed(code: int, text: str) -> Iterator[None]:
    """Expect the broker to close the connection with exactly this reply code and text."""
    with pytest.raises(ConnectionClosedByBroker) as caught:
        yield
    assert (caught.value.reply_code, caught.value.reply_text) == (code, text)


class Inbox:
    """What one consumer has received, in order."""

    def __init__(self, channel: BlockingChannel, queue: str, **options: Any) -> None:
        """Consume a queue; ``options`` are those of ``basic_consume``."""
        self.messages: list[Received] = []
        self._channel = channel
        self.tag = channel.basic_consume(queue, self._take, **options)

    def _take(self, _channel: BlockingChannel, method: spec.Basic.Deliver, properties: spec.BasicProperties, body: bytes) -> None:
        self.messages.append(Received(method, properties, body))

    @property
    def bodies(self) -> list[bytes]:
        """Return the bodies received so far."""
        return [message.body for message in self.messages]

    @property
    def tags(self) -> list[int]:
        """Return the delivery tags received so far."""
        return [message.method.delivery_tag or 0 for message in self.messages]

    def wait_for(self, count: int, *, timeout_s: float = 10.0) -> list[Received]:
        """Read from the connection until that many messages are there, and return all there are."""

        def are_there() -> bool:
            self._channel.connection.process_data_events(0.05)
            return len(self.messages) >= count

        wait_until(are_there, timeout_s, f"{count} deliveries to {self.tag} (got {len(self.messages)})")
        return self.messages


def get_when_there(channel: BlockingChannel, queue: str, *, auto_ack: bool = True, timeout_s: float = 10.0) -> Received:
    """Get one message as soon as the queue has one."""

    def attempt() -> Received | None:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        return None if method is None else Received(method, properties, body)

    message = wait_until(attempt, timeout_s, f"a message in {queue}")
    assert message is not None
    return message


def publish(channel: BlockingChannel, queue: str, *bodies: bytes, **properties: Any) -> None:
    """Put messages into a queue, and return when they are there: confirmed, on a channel of their own.

    ``properties`` are those of a message, the same for all.

    """
    publishing = channel.connection.channel()
    publishing.confirm_delivery()
    for body in bodies:
        publishing.basic_publish("", queue, body, spec.BasicProperties(**properties))
    publishing.close()


def settle(channel: BlockingChannel, queue: str) -> int:
    """Return once all that a queue has sent to this channel has arrived; return how many messages are ready.

    After :func:`publish`, or after a delivery that an acknowledgement made possible, the queue has sent all it may: a round
    trip through the channel is then enough to know that nothing more comes, without waiting. (It is not enough after a publish
    without a confirm: RabbitMQ's queues answer a passive declare before they look at the messages that wait for them.)

    """
    ready = 0
    for _ in range(2):
        ready = channel.queue_declare(queue, passive=True).method.message_count
    channel.connection.process_data_events(0)
    return ready
