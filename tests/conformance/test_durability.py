"""AMQP 0-9-1, 3.1.2 and 4.10: what a restart keeps and what it does not, in good order and after a crash.

The world is built once per broker and way of restarting, then restarted once; each test looks at one thing in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pika
import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ConnectionClosedByBroker

from tests.support.brokers import Broker, Server
from tests.support.embedded import EmbeddedBroker
from tests.support.pika_client import Inbox, channel_closed, get_when_there, open_connection, settle

PERSISTENT = spec.BasicProperties(delivery_mode=2)


@dataclass(slots=True)
class World:
    """A broker that has been restarted, and the names of what was there before."""

    broker: Broker
    crash: bool
    names: dict[str, str] = field(default_factory=dict)
    end_of_old_connection: BaseException | None = None

    def name(self, stem: str) -> str:
        """Return the name of a thing, the same before and after the restart."""
        return self.names.setdefault(stem, self.broker.name(stem))


def _build(world: World, channel: BlockingChannel, doomed: BlockingChannel) -> None:
    """Make what the tests look for; ``doomed`` holds messages and an exclusive queue when the broker goes down."""
    channel.confirm_delivery()
    for stem in ("kept", "unacknowledged", "acknowledged", "bound", "bindings"):
        channel.queue_declare(world.name(stem), durable=True)
    channel.queue_declare(world.name("transient"))
    channel.queue_declare(world.name("priorities"), durable=True, arguments={"x-max-priority": 5})

    for number in range(50):
        properties = spec.BasicProperties(delivery_mode=2, message_id=str(number), headers={"number": number})
        channel.basic_publish("", world.name("kept"), b"%d" % number, properties)
        if number % 10 == 0:
            channel.basic_publish("", world.name("kept"), b"transient", spec.BasicProperties(delivery_mode=1))
    for stem in ("unacknowledged", "acknowledged", "transient"):
        for body in (b"1", b"2"):
            channel.basic_publish("", world.name(stem), body, PERSISTENT)
    for priority in (1, 5, 3):
        properties = spec.BasicProperties(delivery_mode=2, priority=priority)
        channel.basic_publish("", world.name("priorities"), b"%d" % priority, properties)

    channel.exchange_declare(world.name("durable exchange"), exchange_type="topic", durable=True)
    channel.exchange_declare(world.name("transient exchange"), exchange_type="topic")
    channel.exchange_declare(world.name("second exchange"), exchange_type="fanout", durable=True)
    channel.queue_bind(world.name("bound"), world.name("durable exchange"), "key.*")
    channel.queue_bind(world.name("bound"), world.name("transient exchange"), "key.*")
    channel.queue_bind(world.name("transient"), world.name("durable exchange"), "key.*")
    channel.queue_bind(world.name("bindings"), world.name("durable exchange"), "unbound")
    channel.queue_unbind(world.name("bindings"), world.name("durable exchange"), "unbound")
    channel.exchange_bind(world.name("second exchange"), world.name("durable exchange"), "passed.on")
    channel.queue_bind(world.name("bindings"), world.name("second exchange"), "")
    channel.queue_declare(world.name("deleted"), durable=True)
    channel.basic_publish("", world.name("deleted"), b"", PERSISTENT)
    channel.queue_delete(world.name("deleted"))

    doomed.queue_declare(world.name("exclusive"), exclusive=True, durable=True)
    Inbox(doomed, world.name("unacknowledged")).wait_for(2)
    acknowledged = Inbox(doomed, world.name("acknowledged"))
    acknowledged.wait_for(2)
    doomed.basic_ack(acknowledged.tags[0])
    settle(doomed, world.name("acknowledged"))


@contextlib.contextmanager
def _embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    server = EmbeddedBroker(tmp_path_factory.mktemp("durable"))
    server.start()
    try:
        yield Broker("embedded", server, "/")
    finally:
        server.stop()


@contextlib.contextmanager
def _rabbitmq(request: pytest.FixtureRequest) -> Iterator[Broker]:
    node = request.getfixturevalue("rabbitmq")
    node.start()
    node.add_vhost("durability")
    try:
        yield Broker("rabbitmq", node, "durability")
    finally:
        node.start()
        node.delete_vhost("durability")


@pytest.fixture(
    scope="module",
    params=[("embedded", "stop"), ("embedded", "kill"), ("rabbitmq", "stop"), ("rabbitmq", "kill")],
    ids=lambda param: "-".join(param),
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Fill a broker, take it down and bring it up again."""
    kind, way = request.param
    with _embedded(tmp_path_factory) if kind == "embedded" else _rabbitmq(request) as broker:
        world = World(broker, crash=way == "kill")
        connection, old_connection = open_connection(broker.url), open_connection(broker.url)
        _build(world, connection.channel(), old_connection.channel())
        connection.close()
        down: Callable[[Server], None] = type(broker.server).kill if world.crash else type(broker.server).stop
        down(broker.server)
        try:
            old_connection.process_data_events(1)
        except pika.exceptions.AMQPConnectionError as error:
            world.end_of_old_connection = error
        broker.server.start()
        yield world


@pytest.fixture
def channel(world: World) -> Iterator[BlockingChannel]:
    """Open a channel to the restarted broker."""
    with open_connection(world.broker.url) as connection:
        yield connection.channel()


def _missing(world: World, what: str, stem: str) -> tuple[int, str]:
    return 404, f"NOT_FOUND - no {what} '{world.name(stem)}' in vhost '{world.broker.vhost}'"


# ---------------------------------------------------------------------------------------------------- messages


def test_confirmed_persistent_messages_are_kept_in_order(world: World, channel: BlockingChannel) -> None:
    """Persistent messages on a durable queue survive, all of them, in order, with their properties; transient ones do not."""
    received = [get_when_there(channel, world.name("kept")) for _ in range(50)]
    assert [message.body for message in received] == [b"%d" % number for number in range(50)]
    assert [message.properties.headers for message in received] == [{"number": number} for number in range(50)]
    assert [message.properties.message_id for message in received] == [str(number) for number in range(50)]
    assert settle(channel, world.name("kept")) == 0


def test_unacknowledged_messages_are_given_back(world: World, channel: BlockingChannel) -> None:
    """What was delivered and not acknowledged when the broker went down is delivered again."""
    received = [get_when_there(channel, world.name("unacknowledged")) for _ in range(2)]
    assert [message.body for message in received] == [b"1", b"2"]
    if not world.crash:  # after a crash nobody can know; 3.10 does not tell either
        assert [message.method.redelivered for message in received] == [True, True]


def test_acknowledged_message_is_not_delivered_again(world: World, channel: BlockingChannel) -> None:
    """An acknowledgement holds after a restart in good order; a crash may undo it, but loses nothing else."""
    received = [get_when_there(channel, world.name("acknowledged")).body]
    if world.crash and received == [b"1"]:
        received = [get_when_there(channel, world.name("acknowledged")).body]
    assert received == [b"2"]
    assert settle(channel, world.name("acknowledged")) == 0


def test_priorities_are_kept(world: World, channel: BlockingChannel) -> None:
    """A queue's arguments and its messages' priorities hold after the restart."""
    channel.queue_declare(world.name("priorities"), durable=True, arguments={"x-max-priority": 5})
    assert [get_when_there(channel, world.name("priorities")).body for _ in range(3)] == [b"5", b"3", b"1"]


# ---------------------------------------------------------------------------------------------------- queues


def test_durable_queue_is_kept(world: World, channel: BlockingChannel) -> None:
    """A durable queue is there again, as it was declared (1.7.2.1.4)."""
    channel.queue_declare(world.name("bound"), durable=True)


def test_transient_queue_is_gone(world: World, channel: BlockingChannel) -> None:
    """A queue that is not durable ends with the broker, with its persistent messages (1.7.2.1.4)."""
    with channel_closed(*_missing(world, "queue", "transient")):
        channel.queue_declare(world.name("transient"), passive=True)


def test_exclusive_queue_is_gone(world: World, channel: BlockingChannel) -> None:
    """An exclusive queue ends with its connection, declared durable or not (1.7.2.1.5)."""
    with channel_closed(*_missing(world, "queue", "exclusive")):
        channel.queue_declare(world.name("exclusive"), passive=True)


def test_deleted_queue_stays_deleted(world: World, channel: BlockingChannel) -> None:
    """What was deleted does not come back, nor do its messages."""
    with channel_closed(*_missing(world, "queue", "deleted")):
        channel.queue_declare(world.name("deleted"), passive=True)


# ---------------------------------------------------------------------------------------------------- exchanges, bindings


def test_durable_exchange_is_kept(world: World, channel: BlockingChannel) -> None:
    """A durable exchange is there again, as it was declared (1.6.2.1.5)."""
    channel.exchange_declare(world.name("durable exchange"), exchange_type="topic", durable=True)


def test_transient_exchange_is_gone(world: World, channel: BlockingChannel) -> None:
    """An exchange that is not durable ends with the broker (1.6.2.1.5)."""
    with channel_closed(*_missing(world, "exchange", "transient exchange")):
        channel.exchange_declare(world.name("transient exchange"), passive=True)


def test_bindings_between_durable_things_are_kept(world: World, channel: BlockingChannel) -> None:
    """A binding lasts as long as both its ends (3.1.2)."""
    channel.confirm_delivery()
    channel.basic_publish(world.name("durable exchange"), "key.word", b"body", mandatory=True)
    assert get_when_there(channel, world.name("bound")).body == b"body"
    assert settle(channel, world.name("bound")) == 0


def test_bindings_between_durable_exchanges_are_kept(world: World, channel: BlockingChannel) -> None:
    """A binding of an exchange to an exchange is no less durable."""
    channel.confirm_delivery()
    channel.basic_publish(world.name("durable exchange"), "passed.on", b"body", mandatory=True)
    assert get_when_there(channel, world.name("bindings")).body == b"body"


def test_deleted_binding_stays_deleted(world: World, channel: BlockingChannel) -> None:
    """A binding that was removed does not come back."""
    channel.confirm_delivery()
    channel.basic_publish(world.name("durable exchange"), "unbound", b"body")
    assert settle(channel, world.name("bindings")) == 0


# ---------------------------------------------------------------------------------------------------- connections


def test_stopping_broker_says_so_to_its_clients(world: World) -> None:
    """A broker that is stopped closes its connections with 320; one that is killed cannot."""
    error = world.end_of_old_connection
    assert error is not None
    if not world.crash:
        assert isinstance(error, ConnectionClosedByBroker)
        assert (error.reply_code, error.reply_text) == (
            320,
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
        )
