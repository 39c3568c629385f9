"""The blocking client on real brokers: what is published arrives, what fails says so, threads and processes share it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pika
import pytest

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Binding, Exchange, Queue
from leveret.amqp.uris import parse_url
from leveret.client.blocking import BlockingClient
from leveret.errors import (
    BrokerUnavailable,
    ConfigurationError,
    NotFound,
    PreconditionFailed,
    PublishNacked,
    Unroutable,
)
from tests.support import pika_client
from tests.support.brokers import Broker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ

PATIENCE_S = 10.0


def _header(body: bytes, correlation_id: str | None = None) -> bytes:
    properties = BasicProperties(delivery_mode=2, content_type="application/json", correlation_id=correlation_id)
    return encode_header(len(body), properties)


@contextmanager
def _client(url: str) -> Iterator[BlockingClient]:
    client = BlockingClient(lambda: [parse_url(url)])
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(broker_url: str) -> Iterator[BlockingClient]:
    """Make a client of the broker, not connected yet."""
    with _client(broker_url) as one:
        yield one


def _publish(client: BlockingClient, queue: str, body: bytes, *, exchange: str = "", timeout_s: float = PATIENCE_S) -> None:
    client.publish(exchange, queue, _header(body), body, timeout_s=timeout_s)


def _bodies(broker: Broker, queue: str) -> list[bytes]:
    """Take everything out of a queue."""
    connection = pika_client.open_connection(broker.url)
    try:
        channel = connection.channel()
        bodies = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            bodies.append(got[2])
        return bodies
    finally:
        connection.close()


# --------------------------------------------------------------------------------------------- publishing


def test_what_is_published_arrives_as_it_was(broker: Broker, client: BlockingClient) -> None:
    """Header and body reach the consumer unchanged: text, nothing at all, and more than a frame holds."""
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    bodies = [b"hello", b"", os.urandom(300_000)]
    for body in bodies:
        client.publish("", queue.name, _header(body, correlation_id="é"), body, timeout_s=PATIENCE_S)
    connection = pika_client.open_connection(broker.url)
    received = [pika_client.get_when_there(connection.channel(), queue.name) for _ in bodies]
    assert [one.body for one in received] == bodies
    assert {one.properties.correlation_id for one in received} == {"é"}
    assert {one.properties.delivery_mode for one in received} == {2}
    connection.close()


def test_declared_topology_routes(broker: Broker, client: BlockingClient) -> None:
    """Exchanges, queues and bindings are there after ``declare``, arguments included."""
    logs = Exchange(broker.name("logs"), type="topic")
    work = Exchange(broker.name("work"))
    audit = Queue(broker.name("audit"), logs, "billing.#", bindings=[Binding(work, "audit")])
    tasks = Queue(broker.name("tasks"), work, "tasks", max_priority=5)
    client.declare([audit, tasks], PATIENCE_S)
    client.declare([audit, tasks], PATIENCE_S)
    _publish(client, "billing.invoice.paid", b"1", exchange=logs.name)
    _publish(client, "audit", b"2", exchange=work.name)
    _publish(client, "tasks", b"3", exchange=work.name)
    assert _bodies(broker, audit.name) == [b"1", b"2"]
    assert _bodies(broker, tasks.name) == [b"3"]


def test_a_message_for_nobody_is_unroutable(broker: Broker, client: BlockingClient) -> None:
    """Mandatory: without a queue the message comes back; not mandatory: it is dropped in silence, as asked."""
    nowhere = broker.name("nowhere")
    with pytest.raises(Unroutable, match="312 NO_ROUTE"):
        _publish(client, nowhere, b"lost?")
    client.publish("", nowhere, _header(b"lost"), b"lost", mandatory=False, timeout_s=PATIENCE_S)


def test_a_full_queue_refuses(rabbitmq_url: str) -> None:
    """reject-publish answers basic.nack."""
    with _client(rabbitmq_url) as client:
        queue = Queue("full", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        client.declare([queue], PATIENCE_S)
        _publish(client, "full", b"1")
        with pytest.raises(PublishNacked):
            client.publish_many([("", "full", _header(b"2"), b"2")] * 10, timeout_s=PATIENCE_S)  # the limit is not exact


def test_a_missing_exchange_is_not_found(broker: Broker, client: BlockingClient) -> None:
    """The reply code reaches the publisher, and the next message is not affected."""
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    with pytest.raises(NotFound, match="no exchange"):
        _publish(client, "key", b"x", exchange=broker.name("missing"))
    _publish(client, queue.name, b"y")
    assert _bodies(broker, queue.name) == [b"y"]


def test_an_exchange_deleted_meanwhile_is_not_found(broker: Broker, client: BlockingClient) -> None:
    """The broker closes the channel over the message; the next one opens it again, on the same connection."""
    work = Exchange(broker.name("work"))
    queue = Queue(broker.name("tasks"), work, "tasks")
    client.declare([queue], PATIENCE_S)
    _publish(client, "tasks", b"1", exchange=work.name)
    connection = pika_client.open_connection(broker.url)
    connection.channel().exchange_delete(work.name)
    connection.close()
    with pytest.raises(NotFound, match=work.name):
        _publish(client, "tasks", b"2", exchange=work.name)
    client.declare([queue], PATIENCE_S)
    _publish(client, "tasks", b"3", exchange=work.name)
    assert _bodies(broker, queue.name) == [b"1", b"3"]


def test_a_queue_deleted_meanwhile_is_declared_again(broker: Broker, client: BlockingClient) -> None:
    """A program that declares before it publishes recovers after one error."""
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    connection = pika_client.open_connection(broker.url)
    connection.channel().queue_delete(queue.name)
    connection.close()
    with pytest.raises(Unroutable):
        _publish(client, queue.name, b"1")
    client.declare([queue], PATIENCE_S)
    _publish(client, queue.name, b"2")
    assert _bodies(broker, queue.name) == [b"2"]


def test_a_queue_with_other_properties_is_refused(broker: Broker, client: BlockingClient) -> None:
    """The broker's text says what differs; the client goes on."""
    name = broker.name("tasks")
    client.declare([Queue(name)], PATIENCE_S)
    with pytest.raises(PreconditionFailed, match="x-max-priority"):
        client.declare([Queue(name, max_priority=5)], PATIENCE_S)
    _publish(client, name, b"x")


def test_a_batch_arrives_whole(broker: Broker, client: BlockingClient) -> None:
    """More messages than the window holds, confirmed together, in their order."""
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    bodies = [b"%d" % number for number in range(3000)]
    assert client.publish_many((("", queue.name, _header(body), body) for body in bodies), timeout_s=PATIENCE_S) == 3000
    assert _bodies(broker, queue.name) == bodies


def test_a_batch_says_how_much_was_confirmed(broker: Broker, client: BlockingClient) -> None:
    """One message of a batch has no queue: the others of the window are confirmed and counted."""
    queue = Queue(broker.name("tasks"))
    client.declare([queue], PATIENCE_S)
    keys = [queue.name] * 10 + [broker.name("nowhere")] + [queue.name] * 10
    with pytest.raises(Unroutable, match="20 messages of the batch were confirmed") as caught:
        client.publish_many([("", key, _header(b"x"), b"x") for key in keys], timeout_s=PATIENCE_S)
    assert caught.value.confirmed == 20
    assert len(_bodies(broker, queue.name)) == 20


# --------------------------------------------------------------------------------------------- threads and processes


def test_eight_threads_publish_at_once(broker: Broker) -> None:
    """All messages of all threads arrive, over one connection, each thread's in its order."""
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url.text) as client:
        queue = Queue(broker.name("tasks"))
        errors: list[BaseException] = []

        def publish(thread: int) -> None:
            try:
                client.declare([queue], PATIENCE_S)
                for number in range(200):
                    _publish(client, queue.name, b"%d %d" % (thread, number))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert errors == []
        bodies = _bodies(broker, queue.name)
        for number in range(8):
            own = [body for body in bodies if body.startswith(b"%d " % number)]
            assert own == [b"%d %d" % (number, index) for index in range(200)]
        assert len(bodies) == 1600
        assert proxy.connections == 1


def test_a_forked_child_has_a_connection_of_its_own(broker: Broker) -> None:
    """Parent and child publish at the same time, neither disturbs the other, and the child's end is not the parent's."""
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url.text) as client:
        queue = Queue(broker.name("tasks"))
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"before")
        parents_replies = client.reply_queue()
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for number in range(50):
                    _publish(client, queue.name, b"child %d" % number)
                os.write(write_end, client.reply_queue().encode())
                client.close()
                status = 0
            finally:
                os._exit(status)
        os.close(write_end)
        for number in range(50):
            _publish(client, queue.name, b"parent %d" % number)
        _, status = os.waitpid(child, 0)
        assert status == 0
        _publish(client, queue.name, b"after")
        assert proxy.connections == 2
        with os.fdopen(read_end) as pipe:
            assert pipe.read() not in ("", parents_replies)
        bodies = _bodies(broker, queue.name)
        assert len(bodies) == 102
        assert [body for body in bodies if b"child" in body] == [b"child %d" % number for number in range(50)]
        assert client.reply_queue() == parents_replies


def test_a_signal_while_publishing_leaves_the_client_usable(broker: Broker) -> None:
    """Ctrl-C in the middle of a publish: the call ends, the connection stays."""
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url.text) as client:
        queue = Queue(broker.name("tasks"))
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"1")
        proxy.stall()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            _publish(client, queue.name, b"2")
        timer.join()
        proxy.flow()
        _publish(client, queue.name, b"3")
        assert proxy.connections == 1
        assert _bodies(broker, queue.name) == [b"1", b"2", b"3"]


# --------------------------------------------------------------------------------------------- replies


def test_replies_reach_who_asked(broker: Broker, client: BlockingClient) -> None:
    """A worker answers to the reply queue by its name; the queue is gone when the client is closed."""
    name = client.reply_queue()
    worker = pika_client.open_connection(broker.url)
    channel = worker.channel()
    for correlation_id in ("b", "a", "a"):
        channel.basic_publish("", name, correlation_id.encode() * 3, pika.BasicProperties(correlation_id=correlation_id))
    assert client.wait_reply("a", PATIENCE_S) == b"aaa"
    assert client.wait_reply("b", PATIENCE_S) == b"bbb"
    assert client.wait_reply("a", PATIENCE_S) == b"aaa"
    assert client.wait_reply("a", 0.0) is None
    client.close()
    with pika_client.channel_closed(404, f"NOT_FOUND - no queue '{name}' in vhost '{broker.vhost}'"):
        channel.queue_declare(name, passive=True)
    worker.close()


# --------------------------------------------------------------------------------------------- logging in


def test_a_wrong_password_is_said_to_be_wrong(broker: Broker) -> None:
    """The broker's own words, the URL, and no password."""
    url = broker.url.replace("guest:guest", "guest:wrong-secret")
    with _client(url) as client, pytest.raises(BrokerUnavailable, match="403 ACCESS_REFUSED - Login was refused") as caught:
        _publish(client, "tasks", b"x")
    assert "guest:***@" in str(caught.value)
    assert "wrong-secret" not in str(caught.value)


def test_an_unknown_vhost_is_named(broker: Broker) -> None:
    """The broker's own words again."""
    url = broker.server.url("no such vhost")
    with _client(url) as client, pytest.raises(BrokerUnavailable, match="530 NOT_ALLOWED - vhost no such vhost not found"):
        _publish(client, "tasks", b"x")


def test_a_plain_broker_behind_a_tls_url_is_named(broker: Broker) -> None:
    """Amqps to a port without TLS: an error within the connect timeout, not a hang."""
    url = broker.url.replace("amqp://", "amqps://")
    client = BlockingClient(lambda: [parse_url(url)], connect_timeout_s=2.0)
    with pytest.raises((BrokerUnavailable, ConfigurationError), match="amqps://guest"):
        _publish(client, "tasks", b"x")
    client.close()


def test_the_connection_bears_the_clients_name(rabbitmq_url: str, rabbitmq: RabbitMQ) -> None:
    """RabbitMQ's tools show whose connection it is."""
    client = BlockingClient(lambda: [parse_url(rabbitmq_url)], client_name="the shop")
    client.declare([Queue("named")], PATIENCE_S)
    properties = rabbitmq.ctl("list_connections", "client_properties")
    client.close()
    assert '{"connection_name","the shop"}' in properties
    assert '{"product","Leveret"}' in properties
