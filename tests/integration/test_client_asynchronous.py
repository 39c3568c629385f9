"""The event loop's client on real brokers: deliveries and acknowledgements, confirms, closings, a network that dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from leveret.amqp.methods import basic, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Queue
from leveret.amqp.uris import parse_url
from leveret.client.asynchronous import AsyncChannel, AsyncClient, Delivery
from leveret.errors import (
    AccessRefused,
    BrokerUnavailable,
    LeveretError,
    NotFound,
    PreconditionFailed,
    PublishUnconfirmed,
    Unroutable,
)
from tests.support.brokers import Broker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ

PATIENCE_S = 10.0


class _Ends(list[LeveretError | None]):
    """What ``on_closed`` was called with, and an event for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = asyncio.Event()

    def __call__(self, error: LeveretError | None) -> None:
        self.append(error)
        self.happened.set()


class _Inbox:
    """Deliveries, and a way to wait for so many."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._wanted = 0
        self._there = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if len(self.deliveries) >= self._wanted:
            self._there.set()

    async def wait_for(self, count: int) -> list[bytes]:
        self._wanted = count
        self._there.clear()
        if len(self.deliveries) < count:
            await asyncio.wait_for(self._there.wait(), PATIENCE_S)
        return [delivery.body for delivery in self.deliveries]


@pytest.fixture
async def ends() -> _Ends:
    """Keep how the connection ended."""
    return _Ends()


@pytest.fixture
async def client(broker_url: str, ends: _Ends) -> AsyncIterator[AsyncClient]:
    """Connect to the broker."""
    one = await AsyncClient.connect(parse_url(broker_url), on_closed=ends, timeout_s=PATIENCE_S)
    yield one
    await one.close()


async def _confirming(client: AsyncClient) -> AsyncChannel:
    one = await client.open_channel()
    await one.confirm_select()
    return one


async def _publish(one: AsyncChannel, queue_name: str, *bodies: bytes) -> None:
    properties = BasicProperties(delivery_mode=2)
    await asyncio.gather(
        *(one.publish("", queue_name, encode_header(len(body), properties), body, mandatory=True) for body in bodies)
    )


async def _ready_count(client: AsyncClient, name: str) -> int:
    one = await client.open_channel()
    reply = await one.call(queue.Declare(name, passive=True))
    await one.close()
    assert isinstance(reply, queue.DeclareOk)
    return reply.message_count


async def test_what_is_published_is_delivered(broker: Broker, client: AsyncClient) -> None:
    """Header, body and route arrive; an acknowledged message is gone, one that is not comes back to the queue."""
    name = broker.name("tasks")
    one = await _confirming(client)
    await one.declare([Queue(name)])
    large = os.urandom(300_000)
    await _publish(one, name, b"1", b"", large)
    inbox = _Inbox()
    consuming = await client.open_channel()
    await consuming.consume(name, inbox, prefetch_count=10)
    assert await inbox.wait_for(3) == [b"1", b"", large]
    first = inbox.deliveries[0]
    assert (first.exchange, first.routing_key, first.redelivered) == ("", name, False)
    assert first.header == encode_header(1, BasicProperties(delivery_mode=2))
    consuming.ack(first.delivery_tag)
    await consuming.close()
    assert await _ready_count(client, name) == 2
    again = _Inbox()
    consuming = await client.open_channel()
    await consuming.consume(name, again, prefetch_count=10)
    await again.wait_for(2)
    assert [delivery.redelivered for delivery in again.deliveries] == [True, True]


async def test_joined_acknowledgements_settle_exactly_theirs(broker: Broker, client: AsyncClient) -> None:
    """Some are acknowledged out of order, some refused, some held: only those held are there afterwards."""
    name = broker.name("tasks")
    one = await _confirming(client)
    await one.declare([Queue(name)])
    await _publish(one, name, *(b"%d" % number for number in range(100)))
    inbox = _Inbox()
    consuming = await client.open_channel()
    await consuming.consume(name, inbox, prefetch_count=100)
    await inbox.wait_for(100)
    held = {7, 50, 99}
    for place in reversed(range(100)):
        if place in held:
            continue
        if place % 10 == 3:
            consuming.nack(inbox.deliveries[place].delivery_tag, requeue=False)
        else:
            consuming.ack(inbox.deliveries[place].delivery_tag)
        if place % 17 == 0:
            await asyncio.sleep(0)
    await consuming.close()
    rest = _Inbox()
    consuming = await client.open_channel()
    await consuming.consume(name, rest, prefetch_count=0)
    assert await rest.wait_for(3) == [b"%d" % place for place in sorted(held)]


async def test_prefetch_is_per_consumer(broker: Broker, client: AsyncClient) -> None:
    """Each consumer of a channel has its own limit; one more is delivered for one acknowledged."""
    name = broker.name("tasks")
    one = await _confirming(client)
    await one.declare([Queue(name)])
    first, second = _Inbox(), _Inbox()
    await one.consume(name, first, prefetch_count=2)
    await one.consume(name, second, prefetch_count=3)
    await _publish(one, name, *(b"%d" % number for number in range(10)))
    await first.wait_for(2)
    await second.wait_for(3)
    await one.call(basic.Qos(prefetch_count=1))  # whatever was on its way has come before this answer
    assert (len(first.deliveries), len(second.deliveries)) == (2, 3)
    one.ack(first.deliveries[0].delivery_tag)
    await first.wait_for(3)


async def test_a_cancelled_consumer_gets_nothing_more(broker: Broker, client: AsyncClient) -> None:
    """What it holds may still be settled."""
    name = broker.name("tasks")
    one = await _confirming(client)
    await one.declare([Queue(name)])
    inbox = _Inbox()
    tag = await one.consume(name, inbox, prefetch_count=1)
    await _publish(one, name, b"1", b"2")
    await inbox.wait_for(1)
    await one.cancel(tag)
    one.ack(inbox.deliveries[0].delivery_tag)
    await one.close()
    assert await _ready_count(client, name) == 1
    assert len(inbox.deliveries) == 1


async def test_a_deleted_queue_cancels_its_consumers(broker: Broker, client: AsyncClient) -> None:
    """The broker says so, and the channel lives on."""
    name = broker.name("tasks")
    one = await client.open_channel()
    await one.declare([Queue(name)])
    cancelled: list[str] = []
    told = asyncio.Event()

    def on_cancel(tag: str) -> None:
        cancelled.append(tag)
        told.set()

    one.on_cancel = on_cancel
    tag = await one.consume(name, _Inbox(), prefetch_count=1)
    other = await client.open_channel()
    await other.call(queue.Delete(name))
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    assert cancelled == [tag]
    await one.declare([Queue(name)])
    await one.consume(name, _Inbox(), prefetch_count=1)


async def test_a_broken_rule_costs_the_channel_only(broker: Broker, client: AsyncClient, ends: _Ends) -> None:
    """A reply code closes the channel it is about; its owner is told, the other channels and the connection go on."""
    good, bad = await client.open_channel(), await client.open_channel()
    told: list[LeveretError] = []
    bad.on_close = told.append
    with pytest.raises(NotFound):
        await bad.call(queue.Declare(broker.name("missing"), passive=True))
    assert [type(error) for error in told] == [NotFound]
    name = broker.name("tasks")
    await good.declare([Queue(name)])
    with pytest.raises(PreconditionFailed):
        await good.declare([Queue(name, max_priority=3)])
    another = await client.open_channel()
    another.on_close = told.append
    another.ack(42)
    with pytest.raises(PreconditionFailed, match="unknown delivery tag 42"):
        await another.declare([Queue(name)])
    assert client.is_open
    assert ends == []


async def test_messages_for_nobody_fail_alone(broker: Broker, client: AsyncClient) -> None:
    """Of many messages in flight those that come back fail, the others are confirmed."""
    name = broker.name("tasks")
    one = await _confirming(client)
    await one.declare([Queue(name)])
    header = encode_header(1, BasicProperties())
    keys = [name, broker.name("nowhere"), name, broker.name("nowhere"), name]
    outcomes = await asyncio.gather(*(one.publish("", key, header, b"x", mandatory=True) for key in keys), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), Unroutable, type(None), Unroutable, type(None)]
    with pytest.raises(NotFound):
        await one.publish(broker.name("missing"), "x", header, b"x")
    assert await _ready_count(client, name) == 3


async def test_a_dead_network_is_noticed_by_heartbeats(broker: Broker) -> None:
    """Nobody says that the connection is gone; silence for two heartbeats does, everything pending fails, once."""
    with Proxy(parse_url(broker.url)) as proxy:
        ends = _Ends()
        client = await AsyncClient.connect(proxy.url, on_closed=ends, timeout_s=PATIENCE_S, heartbeat_s=1)
        one = await _confirming(client)
        await one.declare([Queue(broker.name("tasks"))])
        proxy.stall()
        future = one.publish("", broker.name("tasks"), encode_header(1, BasicProperties()), b"x")
        call = asyncio.ensure_future(one.call(basic.Qos()))
        await asyncio.wait_for(ends.happened.wait(), PATIENCE_S)
        assert "missed heartbeats" in str(ends[0])
        with pytest.raises(PublishUnconfirmed):
            await future
        with pytest.raises(BrokerUnavailable, match="missed heartbeats"):
            await call
        await client.close()
        assert len(ends) == 1


async def test_heartbeats_keep_an_idle_connection(broker: Broker, ends: _Ends) -> None:
    """With nothing to say both sides say that they are there, for longer than the other would wait."""
    client = await AsyncClient.connect(parse_url(broker.url), on_closed=ends, timeout_s=PATIENCE_S, heartbeat_s=1)
    await asyncio.wait([asyncio.ensure_future(ends.happened.wait())], timeout=4.0)
    assert ends == []
    assert client.is_open
    await client.close()


async def test_a_wrong_password_is_the_cause(broker: Broker) -> None:
    """The error names the broker; its cause is the reply code, for who must tell a refusal from a failure."""
    url = parse_url(broker.url.replace("guest:guest", "guest:wrong-secret"))
    with pytest.raises(BrokerUnavailable, match="Login was refused") as caught:
        await AsyncClient.connect(url, on_closed=_Ends(), timeout_s=PATIENCE_S)
    assert isinstance(caught.value.__cause__, AccessRefused)
    assert "wrong-secret" not in str(caught.value)


async def test_an_operator_can_close_the_connection(rabbitmq: RabbitMQ, rabbitmq_url: str, rabbitmq_vhost: str) -> None:
    """``rabbitmqctl close_all_connections`` reaches ``on_closed`` with its words."""
    ends = _Ends()
    client = await AsyncClient.connect(parse_url(rabbitmq_url), on_closed=ends, timeout_s=PATIENCE_S)
    closing = asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "--vhost", rabbitmq_vhost, "maintenance")
    await asyncio.gather(closing, asyncio.wait_for(ends.happened.wait(), PATIENCE_S))
    assert "320 CONNECTION_FORCED" in str(ends[0])
    assert "maintenance" in str(ends[0])
    assert not client.is_open
