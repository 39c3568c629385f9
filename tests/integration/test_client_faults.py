"""The blocking client when the broker or the network fails: restarts, crashes, stalls, memory alarms, several hosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pika
import pytest

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Queue
from leveret.amqp.uris import AMQPURL, parse_url, parse_urls
from leveret.client.blocking import BlockingClient
from leveret.errors import BrokerUnavailable, PublishBlocked, PublishUnconfirmed
from tests.support import pika_client
from tests.support.brokers import Broker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ

PATIENCE_S = 10.0
SHORT_S = 0.5


@contextmanager
def _client(*urls: AMQPURL) -> Iterator[BlockingClient]:
    client = BlockingClient(lambda: urls)
    try:
        yield client
    finally:
        client.close()


def _publish(client: BlockingClient, queue: str, body: bytes, *, timeout_s: float = PATIENCE_S) -> None:
    client.publish("", queue, encode_header(len(body), BasicProperties(delivery_mode=2)), body, timeout_s=timeout_s)


def _bodies(url: str, queue: str) -> list[bytes]:
    """Take everything out of a queue."""
    connection = pika_client.open_connection(url)
    try:
        channel = connection.channel()
        bodies = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            bodies.append(got[2])
        return bodies
    finally:
        connection.close()


# --------------------------------------------------------------------------------------------- restarts


def test_a_broker_restarted_meanwhile_is_not_noticed(broker: Broker) -> None:
    """Between two publishes the broker was restarted: the second just works, exactly once."""
    queue = Queue(broker.name("tasks"))
    with _client(parse_url(broker.url)) as client:
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"before")
        broker.server.restart()
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"after")
    assert _bodies(broker.url, queue.name) == [b"before", b"after"]


def test_a_broker_that_is_away_is_named_at_once(broker: Broker) -> None:
    """Nobody listens: the error comes within a moment, says which broker and why, and nothing was sent."""
    queue = Queue(broker.name("tasks"))
    with _client(parse_url(broker.url)) as client:
        client.declare([queue], PATIENCE_S)
        broker.server.kill()
        started_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{broker.server.port}.*Connection refused"):
            _publish(client, queue.name, b"away")
        assert time.monotonic() - started_s < PATIENCE_S / 2
        broker.server.start()
        client.declare([queue], PATIENCE_S)  # RabbitMQ may lose a queue that was declared just before it was killed
        _publish(client, queue.name, b"back")
    assert _bodies(broker.url, queue.name) == [b"back"]


# --------------------------------------------------------------------------------------------- the network


def test_a_connection_cut_while_idle_is_replaced(broker: Broker) -> None:
    """The end of the connection is noticed before anything is written."""
    queue = Queue(broker.name("tasks"))
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url) as client:
        client.declare([queue], PATIENCE_S)
        for number in range(3):
            _publish(client, queue.name, b"%d" % number)
            proxy.cut()
        assert proxy.connections == 3
    assert _bodies(broker.url, queue.name) == [b"0", b"1", b"2"]


def test_a_connection_cut_before_the_confirm_leaves_doubt(broker: Broker) -> None:
    """The message left and the answer never came: ``PublishUnconfirmed`` says what that means."""
    queue = Queue(broker.name("tasks"))
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url) as client:
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"1")
        proxy.stall()
        cut = threading.Timer(0.3, proxy.cut)
        cut.start()
        with pytest.raises(PublishUnconfirmed, match=r"may or may not have been taken.*same id is safe only"):
            _publish(client, queue.name, b"2")
        cut.join()
        _publish(client, queue.name, b"3")
    bodies = _bodies(broker.url, queue.name)
    assert bodies in ([b"1", b"3"], [b"1", b"2", b"3"])


def test_a_half_open_connection_is_given_up(broker: Broker) -> None:
    """The network swallows everything without a word: an error at the deadline, another connection for the next message."""
    queue = Queue(broker.name("tasks"))
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url) as client:
        client.declare([queue], PATIENCE_S)
        _publish(client, queue.name, b"1")
        proxy.stall()
        started_s = time.monotonic()
        with pytest.raises(PublishUnconfirmed, match=r"within 0\.5 s"):
            _publish(client, queue.name, b"2", timeout_s=SHORT_S)
        assert SHORT_S <= time.monotonic() - started_s < SHORT_S + 1.0
        proxy.cut()
        _publish(client, queue.name, b"3")
        assert proxy.connections == 2


def test_a_stalled_broker_does_not_hold_a_call_beyond_its_deadline(broker: Broker) -> None:
    """Connecting, declaring and waiting for replies end in time, too."""
    with Proxy(parse_url(broker.url)) as proxy:
        proxy.stall()
        client = BlockingClient(lambda: [proxy.url], connect_timeout_s=SHORT_S)
        calls: list[Callable[[], object]] = [
            lambda: client.declare([Queue("tasks")], PATIENCE_S),
            client.reply_queue,
            lambda: _publish(client, "tasks", b"x", timeout_s=SHORT_S),
            lambda: client.wait_reply("a", SHORT_S),
        ]
        for call in calls:
            started_s = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="did not open it in time"):
                call()
            assert time.monotonic() - started_s < SHORT_S + 1.5
        client.close()


def test_waiting_for_a_reply_survives_the_network(broker: Broker) -> None:
    """The reply queue outlives its connection: what was published to it meanwhile arrives."""
    with Proxy(parse_url(broker.url)) as proxy, _client(proxy.url) as client:
        name = client.reply_queue()
        proxy.cut()
        worker = pika_client.open_connection(broker.url)
        worker.channel().basic_publish("", name, b"done", pika.BasicProperties(correlation_id="a"))
        worker.close()
        assert client.wait_reply("a", PATIENCE_S) == b"done"
        assert proxy.connections == 2


# --------------------------------------------------------------------------------------------- several hosts


def test_the_other_host_takes_over(broker: Broker) -> None:
    """With two URLs the one that answers is used."""
    queue = Queue(broker.name("tasks"))
    with Proxy(parse_url(broker.url)) as first, Proxy(parse_url(broker.url)) as second:
        with _client(*parse_urls(f"{first.url.text};{second.url.text}")) as client:
            client.declare([queue], PATIENCE_S)
            _publish(client, queue.name, b"first")
            first.close()
            _publish(client, queue.name, b"second")
        assert (first.connections, second.connections) == (1, 1)
    assert _bodies(broker.url, queue.name) == [b"first", b"second"]


# --------------------------------------------------------------------------------------------- RabbitMQ's own ways


def test_connections_closed_by_an_operator_are_replaced(rabbitmq: RabbitMQ, rabbitmq_url: str, rabbitmq_vhost: str) -> None:
    """``rabbitmqctl close_all_connections`` between two publishes is not noticed."""
    with _client(parse_url(rabbitmq_url)) as client:
        client.declare([Queue("tasks")], PATIENCE_S)
        _publish(client, "tasks", b"1")
        rabbitmq.ctl("close_all_connections", "--vhost", rabbitmq_vhost, "maintenance")
        _publish(client, "tasks", b"2")
    assert _bodies(rabbitmq_url, "tasks") == [b"1", b"2"]


@contextmanager
def _memory_alarm(rabbitmq: RabbitMQ) -> Iterator[Callable[[], None]]:
    """Make RabbitMQ believe that it is out of memory, until the given function is called."""
    is_raised = True

    def clear() -> None:
        nonlocal is_raised
        if is_raised:
            rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
            is_raised = False

    rabbitmq.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        yield clear
    finally:
        clear()


def test_a_memory_alarm_blocks_and_lets_go(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    """Blocked: an error at the deadline that says why, nothing more is sent, and after the alarm all goes on."""
    with _client(parse_url(rabbitmq_url)) as client:
        client.declare([Queue("tasks")], PATIENCE_S)
        _publish(client, "tasks", b"1")
        with _memory_alarm(rabbitmq) as clear:
            with pytest.raises(PublishBlocked, match=r"takes no messages \(low on memory\).*may still take"):
                _publish(client, "tasks", b"2", timeout_s=SHORT_S)
            with pytest.raises(PublishBlocked, match=r"low on memory.*nothing was sent"):
                _publish(client, "tasks", b"3", timeout_s=SHORT_S)
            clearing = threading.Timer(0.2, clear)
            clearing.start()
            _publish(client, "tasks", b"4", timeout_s=30.0)
            clearing.join()
    assert _bodies(rabbitmq_url, "tasks") == [b"1", b"2", b"4"]
