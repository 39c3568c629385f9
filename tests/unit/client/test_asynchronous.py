"""The event loop's client against a broker that follows a script."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from leveret.amqp.frames import ack_frame, nack_frame
from leveret.amqp.methods import Method, basic, channel, connection, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Exchange, Queue
from leveret.amqp.uris import parse_url
from leveret.client.asynchronous import AsyncChannel, AsyncClient, Delivery
from leveret.errors import (
    BrokerUnavailable,
    ConnectionForced,
    LeveretError,
    LocalProtocolError,
    NotFound,
    PreconditionFailed,
    PublishNacked,
    PublishUnconfirmed,
    Unroutable,
)
from tests.support.waiting import wait_until
from tests.unit.client.scripted_broker import Client, Published, ScriptedBroker, confirm_all

PATIENCE_S = 10.0
SHORT_S = 0.2
BODY = b"body"
HEADER = encode_header(len(BODY), BasicProperties(delivery_mode=2))


class _Ends(list[LeveretError | None]):
    """What ``on_closed`` was called with, and an event for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = asyncio.Event()

    def __call__(self, error: LeveretError | None) -> None:
        self.append(error)
        self.happened.set()


@pytest.fixture
def script() -> Iterator[ScriptedBroker]:
    """Run a scripted broker."""
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
async def ends() -> _Ends:
    """Keep how the connection ended."""
    return _Ends()


@pytest.fixture
async def client(script: ScriptedBroker, ends: _Ends) -> AsyncIterator[AsyncClient]:
    """Connect to it."""
    one = await AsyncClient.connect(script.url, on_closed=ends, timeout_s=PATIENCE_S)
    yield one
    await one.close()


@pytest.fixture
async def confirming(client: AsyncClient) -> AsyncChannel:
    """Open a channel with publisher confirms."""
    one = await client.open_channel()
    await one.confirm_select()
    return one


async def _until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), PATIENCE_S)


async def _eventually(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, PATIENCE_S, what)


def _first_say(number: int, method: Method) -> Callable[[Client, Published], None]:
    """Send a method before the confirm."""

    def answer(one: Client, message: Published) -> None:
        one.send(number, method)
        confirm_all(one, message)

    return answer


async def _outcome(future: asyncio.Future[None]) -> BaseException | None:
    await asyncio.wait([future], timeout=PATIENCE_S)
    return future.exception()


def _ignore(one: Client, message: Published) -> None:
    pass


# --------------------------------------------------------------------------------------------- publishing


async def test_a_confirm_completes_the_future(script: ScriptedBroker, confirming: AsyncChannel) -> None:
    """Messages of one turn are confirmed each on its own or together."""
    script.on_publish = lambda one, message: one.write(ack_frame(1, 3, multiple=True)) if message.tag == 3 else None
    futures = [confirming.publish("", "tasks", HEADER, BODY) for _ in range(3)]
    assert [await _outcome(future) for future in futures] == [None] * 3
    assert [one.body for one in script.published] == [BODY] * 3


async def test_refused_and_returned_messages_fail(script: ScriptedBroker, confirming: AsyncChannel) -> None:
    """basic.nack and basic.return fail the message they are about, and no other."""

    def answer(one: Client, message: Published) -> None:
        if message.tag == 1:
            one.send(1, basic.Return(312, "NO_ROUTE", "", "nowhere"), message.header, message.body)
        one.write(nack_frame(1, 2) if message.tag == 2 else ack_frame(1, message.tag))

    script.on_publish = answer
    futures = [confirming.publish("", key, HEADER, BODY, mandatory=True) for key in ("nowhere", "full", "tasks")]
    errors = [await _outcome(future) for future in futures]
    assert [type(error) for error in errors] == [Unroutable, PublishNacked, type(None)]


async def test_a_message_whose_waiter_has_gone_settles_quietly(script: ScriptedBroker, confirming: AsyncChannel) -> None:
    """A cancelled wait is nobody's error."""
    script.on_publish = _ignore
    future = confirming.publish("", "tasks", HEADER, BODY)
    await asyncio.sleep(0)
    future.cancel()
    script.on_publish = lambda one, message: one.write(ack_frame(1, 2, multiple=True))
    assert await _outcome(confirming.publish("", "tasks", HEADER, BODY)) is None


async def test_publishing_without_confirms_is_refused(client: AsyncClient) -> None:
    """Nobody would know whether such a message was taken."""
    one = await client.open_channel()
    with pytest.raises(LocalProtocolError, match="confirm_select"):
        one.publish("", "tasks", HEADER, BODY)


async def test_a_closed_channel_fails_the_message_it_is_about(script: ScriptedBroker, confirming: AsyncChannel) -> None:
    """The reply code goes to the message it names, the others are in doubt, and the owner is told once."""
    script.on_publish = lambda one, message: (
        one.send(1, channel.Close(404, "NOT_FOUND - no exchange 'logs' in vhost '/'", *basic.Publish.INDEX))
        if message.tag == 3
        else None
    )
    told: list[LeveretError] = []
    confirming.on_close = told.append
    keys = [("", "tasks"), ("", "tasks"), ("logs", "x")]
    futures = [confirming.publish(exchange, key, HEADER, BODY) for exchange, key in keys]
    errors = [await _outcome(future) for future in futures]
    assert [type(error) for error in errors] == [PublishUnconfirmed, PublishUnconfirmed, NotFound]
    assert [type(error) for error in told] == [NotFound]
    assert not confirming.is_open
    assert isinstance(await _outcome(confirming.publish("", "tasks", HEADER, BODY)), NotFound)


async def test_a_lost_connection_fails_everything_once(script: ScriptedBroker, client: AsyncClient, ends: _Ends) -> None:
    """Messages are in doubt, calls fail with the reason, channels and the connection tell their owners, each once."""
    script.on_publish = lambda one, message: one.end()
    script.on_call = lambda one, number, method: not isinstance(method, queue.Declare)
    one, other = await client.open_channel(), await client.open_channel()
    await one.confirm_select()
    told: list[LeveretError] = []
    one.on_close = other.on_close = told.append
    call = asyncio.ensure_future(other.declare([Queue("tasks")]))
    await asyncio.sleep(0)
    error = await _outcome(one.publish("", "tasks", HEADER, BODY))
    assert isinstance(error, PublishUnconfirmed)
    assert isinstance(error.__cause__, BrokerUnavailable)
    with pytest.raises(BrokerUnavailable, match="connection to amqp://"):
        await call
    await _until(ends.happened)
    assert [type(error) for error in ends] == [BrokerUnavailable]
    assert [type(error) for error in told] == [BrokerUnavailable] * 2
    assert not client.is_open
    with pytest.raises(BrokerUnavailable):
        await client.open_channel()
    await client.close()
    assert len(ends) == 1


async def test_a_connection_closed_by_the_broker_says_why(script: ScriptedBroker, client: AsyncClient, ends: _Ends) -> None:
    """The reply code of connection.close reaches ``on_closed``."""
    script.clients[0].send(0, connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
    await _until(ends.happened)
    assert [type(error) for error in ends] == [ConnectionForced]


async def test_blocked_is_known(script: ScriptedBroker, client: AsyncClient, confirming: AsyncChannel) -> None:
    """While the broker takes no messages ``blocked`` says why."""
    script.on_publish = _first_say(0, connection.Blocked("low on memory"))
    await confirming.publish("", "tasks", HEADER, BODY)
    assert client.blocked == "low on memory"
    script.on_publish = _first_say(0, connection.Unblocked())
    await confirming.publish("", "tasks", HEADER, BODY)
    assert client.blocked is None


# --------------------------------------------------------------------------------------------- calls


async def test_calls_are_answered_in_order(client: AsyncClient) -> None:
    """Several calls may be under way on a channel; each gets its own reply."""
    one = await client.open_channel()
    replies = await asyncio.gather(*(one.call(queue.Declare(name)) for name in ("a", "b", "c")))
    assert replies == [queue.DeclareOk(name) for name in ("a", "b", "c")]


async def test_declarations_leave_together(script: ScriptedBroker, client: AsyncClient) -> None:
    """Declaring takes one round trip, whatever the number of queues."""
    one = await client.open_channel()
    await one.declare([])
    logs = Exchange("logs", type="topic")
    await one.declare([Queue("a", logs, "a"), Queue("b", logs, "b")])
    names = [call.NAME for call in script.clients[0].calls[1:]]
    assert names == ["exchange.declare", "queue.declare", "queue.bind", "queue.declare", "queue.bind"]


async def test_a_refused_call_raises_its_code(script: ScriptedBroker, client: AsyncClient) -> None:
    """The channel is closed; its number can be used again."""

    def refuse(one: Client, number: int, method: Method) -> bool:
        if method == queue.Declare("b", durable=True):
            one.send(number, channel.Close(406, "PRECONDITION_FAILED - inequivalent arg", *queue.Declare.INDEX))
            return False
        return True

    script.on_call = refuse
    one = await client.open_channel()
    with pytest.raises(PreconditionFailed):
        await one.declare([Queue("a"), Queue("b"), Queue("c")])
    with pytest.raises(PreconditionFailed):
        await one.declare([Queue("a")])
    assert (await client.open_channel()).number == one.number


async def test_a_call_without_an_answer_ends_in_time(script: ScriptedBroker, client: AsyncClient) -> None:
    """A late answer to it does not disturb the next call."""
    script.on_call = lambda one, number, method: method != queue.Declare("slow")
    one = await client.open_channel()
    with pytest.raises(BrokerUnavailable, match=r"did not answer queue\.declare within 0\.2 s"):
        await one.call(queue.Declare("slow"), SHORT_S)
    script.clients[0].send(one.number, queue.DeclareOk("slow"))
    assert await one.call(queue.Declare("fast")) == queue.DeclareOk("fast")


async def test_an_answer_to_nothing_ends_the_connection(script: ScriptedBroker, client: AsyncClient, ends: _Ends) -> None:
    """A broker that answers what nobody asked has lost the thread."""
    one = await client.open_channel()
    script.clients[0].send(one.number, queue.DeclareOk("what?"))
    await _until(ends.happened)
    assert "queue.declare-ok" in str(ends[0])


# --------------------------------------------------------------------------------------------- consuming


async def _consume(client: AsyncClient, **options: bool) -> tuple[AsyncChannel, list[Delivery], asyncio.Event]:
    one = await client.open_channel()
    deliveries: list[Delivery] = []
    arrived = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        deliveries.append(delivery)
        arrived.set()

    await one.consume("tasks", on_delivery, prefetch_count=7, arguments={"x-priority": 1}, **options)
    return one, deliveries, arrived


async def test_deliveries_reach_their_consumer(script: ScriptedBroker, client: AsyncClient) -> None:
    """A delivery has everything the broker said, and the number of its connection."""
    client.generation = 42
    _, deliveries, arrived = await _consume(client)
    script.clients[0].deliver(1, 1, HEADER, BODY)
    await _until(arrived)
    one = deliveries[0]
    assert (one.generation, one.delivery_tag, one.redelivered, one.header, one.body) == (42, 1, False, HEADER, BODY)
    assert (one.exchange, one.routing_key) == ("", "tasks")
    calls = script.clients[0].calls
    assert basic.Qos(prefetch_count=7, global_=False) in calls
    consume = next(call for call in calls if isinstance(call, basic.Consume))
    assert (consume.queue, consume.no_ack, consume.arguments) == ("tasks", False, {"x-priority": 1})
    assert calls.index(basic.Qos(prefetch_count=7, global_=False)) == calls.index(consume) - 1


async def test_settlements_of_one_turn_are_joined(script: ScriptedBroker, client: AsyncClient) -> None:
    """Acknowledgements leave at the end of the turn, joined where that is exact."""
    one, deliveries, _ = await _consume(client)
    for tag in range(1, 6):
        script.clients[0].deliver(1, tag, HEADER, BODY)
    await _eventually(lambda: len(deliveries) == 5, "five deliveries")
    one.ack(1)
    one.ack(2)
    one.nack(4, requeue=True)
    one.ack(5)
    await one.call(basic.Qos(prefetch_count=1))
    assert script.clients[0].settled == [(1, 2, 1), (1, 4, 2 | 4), (1, 5, 0)]


async def test_settlements_come_before_the_close(script: ScriptedBroker, client: AsyncClient) -> None:
    """What was acknowledged before ``close`` is written before it, and nothing may follow it on that channel."""
    one, _, arrived = await _consume(client)
    script.clients[0].deliver(1, 1, HEADER, BODY)
    await _until(arrived)
    one.ack(1)
    closing = asyncio.ensure_future(one.close())
    await asyncio.sleep(0)
    one.ack(2)
    await closing
    await one.close()
    await client.close()
    assert script.clients[0].settled == [(1, 1, 0)]
    with pytest.raises(BrokerUnavailable, match="has been closed"):
        await one.call(basic.Qos())


async def test_a_consumer_cancelled_by_the_broker_is_told(script: ScriptedBroker, client: AsyncClient) -> None:
    """basic.cancel from the broker: the queue was deleted or the consumer's time was over."""
    one, _, _ = await _consume(client)
    cancelled: list[str] = []
    told = asyncio.Event()

    def on_cancel(tag: str) -> None:
        cancelled.append(tag)
        told.set()

    one.on_cancel = on_cancel
    consume = next(call for call in script.clients[0].calls if isinstance(call, basic.Consume))
    script.clients[0].send(1, basic.Cancel(consume.consumer_tag, no_wait=True))
    await _until(told)
    assert cancelled == [consume.consumer_tag]
    assert one.is_open


async def test_deliveries_after_a_cancel_go_back(script: ScriptedBroker, client: AsyncClient) -> None:
    """A delivery for a consumer that is no longer there is given back to its queue."""
    one, deliveries, _ = await _consume(client)
    consume = next(call for call in script.clients[0].calls if isinstance(call, basic.Consume))
    await one.cancel(consume.consumer_tag)
    script.clients[0].deliver(1, 1, HEADER, BODY)
    await _eventually(lambda: bool(script.clients[0].settled), "the refusal")
    assert deliveries == []
    assert script.clients[0].settled == [(1, 1, 2 | 4)]


async def test_deliveries_without_acknowledgement_use_up_tags(script: ScriptedBroker, client: AsyncClient) -> None:
    """A consumer that needs none leaves no gap for the others' acknowledgements."""
    one, deliveries, _ = await _consume(client, no_ack=True)
    script.clients[0].deliver(1, 1, HEADER, BODY)
    await _eventually(lambda: bool(deliveries), "a delivery")
    one.ack(2)
    one.ack(3)
    await one.call(basic.Qos())
    assert script.clients[0].settled == [(1, 3, 1)]


# --------------------------------------------------------------------------------------------- connecting, closing


async def test_an_unreachable_broker_is_named() -> None:
    """The error names the URL without its password, and the reason; ``on_closed`` is for connections that were open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = parse_url(f"amqp://me:secret@127.0.0.1:{listening.getsockname()[1]}")
    ends = _Ends()
    with pytest.raises(BrokerUnavailable, match=r"amqp://me:\*\*\*@127\.0\.0\.1.*Connect"):
        await AsyncClient.connect(url, on_closed=ends, timeout_s=PATIENCE_S)
    assert ends == []


async def test_a_broker_that_does_not_answer_ends_with_the_timeout() -> None:
    """Accepting a connection is not enough."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = parse_url(f"amqp://127.0.0.1:{listening.getsockname()[1]}")
        ends = _Ends()
        with pytest.raises(BrokerUnavailable, match=r"no connection within 0\.2 s"):
            await AsyncClient.connect(url, on_closed=ends, timeout_s=SHORT_S)
        assert ends == []


async def test_connecting_can_be_given_up(script: ScriptedBroker) -> None:
    """A cancelled connect leaves no connection behind."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = parse_url(f"amqp://127.0.0.1:{listening.getsockname()[1]}")
        connecting = asyncio.ensure_future(AsyncClient.connect(url, on_closed=_Ends(), timeout_s=PATIENCE_S))
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        accepted, _ = await loop.sock_accept(listening)
        with accepted:
            assert await loop.sock_recv(accepted, 8) == b"AMQP\x00\x00\x09\x01"
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert await asyncio.wait_for(loop.sock_recv(accepted, 1), PATIENCE_S) == b""


async def test_close_is_clean_and_said_once(script: ScriptedBroker, client: AsyncClient, ends: _Ends) -> None:
    """The broker hears goodbye, ``on_closed`` gets None, channels are not told what their owner did, twice does no harm."""
    one = await client.open_channel()
    told: list[LeveretError] = []
    one.on_close = told.append
    await client.close()
    await client.close()
    assert list(ends) == [None]
    assert told == []
    assert isinstance(script.clients[0].calls[-1], connection.Close)
    assert not one.is_open


async def test_the_broker_says_what_it_is(client: AsyncClient) -> None:
    """Its properties are there for decisions by product and version."""
    assert client.server_properties["product"] == "a script"


async def test_writers_can_wait_for_a_slow_broker(script: ScriptedBroker, client: AsyncClient, confirming: AsyncChannel) -> None:
    """When the broker does not read, ``writable`` waits; nothing is lost meanwhile."""
    one = script.clients[0]

    def stop_reading(one: Client, message: Published) -> None:
        one.reading.clear()
        confirm_all(one, message)

    script.on_publish = stop_reading
    await confirming.publish("", "tasks", HEADER, BODY)
    script.on_publish = confirm_all
    size = 8 << 20
    large = encode_header(size, BasicProperties())
    futures = [confirming.publish("", "tasks", large, b"x" * size) for _ in range(4)]
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(client.writable())
    await asyncio.wait([waiting], timeout=SHORT_S)
    assert not waiting.done()
    one.reading.set()
    assert [await _outcome(future) for future in futures] == [None] * 4
    await asyncio.wait_for(waiting, PATIENCE_S)
