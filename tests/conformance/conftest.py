"""Connections and channels that end with their test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from tests.support.brokers import Broker
from tests.support.pika_client import open_connection
from tests.support.raw_client import RawClient

Connect = Callable[..., pika.BlockingConnection]


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    """Open connections to the test's vhost; keywords are attributes of pika's parameters."""
    opened: list[pika.BlockingConnection] = []

    def open_one(**changes: Any) -> pika.BlockingConnection:
        connection = open_connection(broker.url, **changes)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        with contextlib.suppress(AMQPError):
            if connection.is_open:
                connection.close()


@pytest.fixture
def channel(connect: Connect) -> BlockingChannel:
    """Open a channel on a connection of its own."""
    return connect().channel()


@pytest.fixture
def other_channel(connect: Connect) -> BlockingChannel:
    """Open a second channel, on another connection."""
    return connect().channel()


@pytest.fixture
def queue(broker: Broker, channel: BlockingChannel) -> str:
    """Declare an empty queue that ends with the test's connection, and name it."""
    name = broker.name("queue")
    channel.queue_declare(name, exclusive=True)
    return name


@pytest.fixture
def raw(broker: Broker) -> Iterator[RawClient]:
    """Connect a socket, before the handshake."""
    with RawClient(broker.server.host, broker.server.port) as client:
        yield client


@pytest.fixture
def raw_channel(broker: Broker, raw: RawClient) -> RawClient:
    """Connect a socket, go through the handshake and open channel 1."""
    raw.open(broker.vhost)
    raw.open_channel(1)
    return raw
