"""Sending, on both brokers: what is on the queue when ``.delay()`` returns, and every way it can fail."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from leveret import (
    App,
    ArgumentsError,
    BrokerUnavailable,
    ConfigurationError,
    EncodingError,
    Exchange,
    Queue,
    ResultTimeout,
    TaskError,
    TaskFailed,
    as_completed,
)
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import encode_shortstr
from leveret.app.execution import Execution
from leveret.errors import PreconditionFailed
from leveret.tasks.routing import delay_queue
from tests.support.brokers import Broker
from tests.support.pika_client import Received, get_when_there, open_connection
from tests.support.processes import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def channel(broker: Broker) -> Iterator[BlockingChannel]:
    """Open a channel of an independent client."""
    connection = open_connection(broker.url)
    yield connection.channel()
    connection.close()


@pytest.fixture
def app(broker: Broker) -> Iterator[App]:
    """Make an app whose default queue nobody else uses."""
    app = App("shop", broker=broker.url)
    app.conf.task_default_queue = broker.name("tasks")

    @app.task(name="shop.add")
    def add(x: int, y: int = 0) -> int:
        if x < 0:
            raise ValueError("below zero")
        return x + y

    yield app
    app.close()


@pytest.fixture
def queue(app: App) -> str:
    """Name the app's default queue."""
    return app.conf.task_default_queue


def take(channel: BlockingChannel, queue: str) -> Received:
    """Take the next message of a queue."""
    return get_when_there(channel, queue, auto_ack=True)


def work(app: App, channel: BlockingChannel, queue: str) -> None:
    """Do a worker's part for one message: run it and send the result to the caller."""
    received = take(channel, queue)
    headers = received.properties.headers
    assert headers is not None
    properties = BasicProperties(
        content_type=received.properties.content_type,
        headers=headers,
        reply_to=received.properties.reply_to,
        correlation_id=received.properties.correlation_id,
    )
    route = encode_shortstr("", "exchange") + encode_shortstr(queue, "routing_key")
    header = encode_header(len(received.body), properties)
    executed = Execution(app).run(header, received.body, route, redelivered=False)
    assert executed.meta is not None
    channel.basic_publish("", executed.reply_to, executed.meta, pika.BasicProperties(correlation_id=executed.correlation_id))


def test_a_call_is_on_its_queue_when_delay_returns(app: App, queue: str, channel: BlockingChannel) -> None:
    """Persistent, with a task id, a reply queue and protocol 2's headers, on a durable queue made for it."""
    result = app.tasks["shop.add"].delay(2, y=3)
    received = take(channel, queue)
    properties = received.properties
    assert (received.method.exchange, received.method.routing_key) == ("", queue)
    assert (properties.delivery_mode, properties.priority, properties.content_type) == (2, 0, "application/json")
    assert properties.correlation_id == result.id
    assert properties.reply_to
    assert properties.headers is not None
    assert properties.headers["task"] == "shop.add"
    assert properties.headers["id"] == result.id
    assert properties.headers["argsrepr"] == "(2,)"
    assert properties.headers["origin"].startswith(f"gen{os.getpid()}@")
    assert json.loads(received.body)[:2] == [[2], {"y": 3}]
    channel.queue_declare(queue, durable=True)  # the same arguments: it is as it should be


def test_options_of_a_call_are_on_the_message(app: App, broker: Broker, channel: BlockingChannel) -> None:
    """Queue, priority, id, headers and expiry; a result that is not wanted has no address."""
    other = broker.name("other")
    add = app.tasks["shop.add"]
    result = add.apply_async(
        (1,), queue=other, priority=7, task_id="my-id", headers={"tenant": "eu"}, expires=60, ignore_result=True
    )
    with pytest.raises(TaskError, match=r"shop\.add, id my-id, was sent with ignore_result"):
        result.get()
    with pytest.raises(TaskError, match="ignore_result"):
        next(as_completed([result]))
    properties = take(channel, other).properties
    assert properties.headers is not None
    assert (properties.priority, properties.correlation_id, properties.reply_to) == (7, "my-id", "")
    assert (properties.headers["tenant"], properties.headers["ignore_result"]) == ("eu", True)
    assert properties.expiration is not None
    assert 59_000 < int(properties.expiration) <= 60_000
    left = datetime.fromisoformat(properties.headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left < timedelta(seconds=61)


def test_queues_with_an_exchange_are_declared_with_it(app: App, broker: Broker, channel: BlockingChannel) -> None:
    """A topic exchange gets the message under the queue's key, and so does everybody else who is bound."""
    name = broker.name("audit")
    exchange = Exchange(broker.name("logs"), type="topic")
    app.conf.task_queues = (Queue(name, exchange, routing_key="shop.audit", max_priority=5),)
    listener = channel.queue_declare("", exclusive=True).method.queue
    app.tasks["shop.add"].apply_async((1,), queue=name, priority=3)
    assert take(channel, name).method.routing_key == "shop.audit"
    channel.queue_bind(listener, exchange.name, "shop.#")
    app.tasks["shop.add"].apply_async((2,), queue=name)
    assert json.loads(take(channel, listener).body)[0] == [2]
    channel.exchange_delete(exchange.name)


def test_a_delayed_call_waits_in_the_broker(app: App, queue: str, channel: BlockingChannel) -> None:
    """Nobody sees it before it is due; then it is on its queue, with the ETA in its headers."""
    started_s = time.monotonic()
    app.tasks["shop.add"].apply_async((1,), countdown=0.4)
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
    assert channel.queue_declare(f"{queue}.delay.400", passive=True).method.message_count == 1
    received = take(channel, queue)
    assert time.monotonic() - started_s >= 0.4
    assert received.properties.headers is not None
    assert received.properties.headers["eta"] is not None
    assert received.properties.headers["x-death"][0]["reason"] == "expired"


def test_an_eta_that_is_over_does_not_wait(app: App, queue: str, channel: BlockingChannel) -> None:
    """It goes straight to its queue."""
    app.tasks["shop.add"].apply_async((1,), eta=datetime.now(UTC) - timedelta(hours=1))
    assert "x-death" not in (take(channel, queue).properties.headers or {})


def test_a_delay_queue_is_declared_again_before_it_goes(app: App, queue: str, channel: BlockingChannel) -> None:
    """A second call of the same delay finds the queue there, even if somebody has deleted it since."""
    add = app.tasks["shop.add"]
    add.apply_async((1,), countdown=0.2)
    channel.queue_delete(delay_queue(queue, 0.2).name)
    add.apply_async((2,), countdown=0.2)
    assert json.loads(take(channel, queue).body)[0] == [2]


def test_a_queue_that_was_deleted_is_made_again(app: App, queue: str, channel: BlockingChannel) -> None:
    """A returned message was not taken: it is sent once more, to the queue declared anew."""
    add = app.tasks["shop.add"]
    add.delay(1)
    channel.queue_delete(queue)
    add.delay(2)
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


@pytest.mark.parametrize(
    ("send", "error", "words"),
    [
        (lambda add: add.delay(), ArgumentsError, "missing a required argument: 'x'"),
        (lambda add: add.delay("many"), ArgumentsError, "Expected `int`"),
        (lambda add: add.delay(object()), EncodingError, "argument 'x' of shop.add"),
        (lambda add: add.apply_async((1,), eta=datetime(2026, 1, 1)), ConfigurationError, "has no time zone"),
        (lambda add: add.apply_async((1,), eta=datetime.now(UTC), countdown=3), ConfigurationError, "either countdown or eta"),
        (lambda add: add.apply_async((1,), countdown=10**9), ConfigurationError, "up to 48 days"),
        (lambda add: add.apply_async((1,), countdown="soon"), ConfigurationError, "countdown must be seconds"),
        (lambda add: add.apply_async((1,), priority=300), ConfigurationError, "from 0 to 255"),
        (lambda add: add.apply_async((1,), headers={"x": object()}), EncodingError, "no form in AMQP"),
        (lambda add: add.apply_async((1,), headers={1: "x"}), ConfigurationError, "names of headers must be str, not 1"),
        (lambda add: add.apply_async((1,), task_id=uuid4()), ConfigurationError, "task_id must be a str of at most 255 bytes"),
        (lambda add: add.apply_async((1,), task_id="x" * 256), ConfigurationError, "task_id must be a str of at most 255 bytes"),
    ],
)
def test_what_cannot_be_sent_is_not(
    app: App, queue: str, channel: BlockingChannel, send: Callable[[object], object], error: type[Exception], words: str
) -> None:
    """The caller hears why, and nothing is on the queue."""
    app.tasks["shop.add"].delay(1)
    with pytest.raises(error) as caught:
        send(app.tasks["shop.add"])
    assert words in str(caught.value)
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_a_queue_with_other_arguments_is_told(app: App, queue: str, channel: BlockingChannel) -> None:
    """The broker's own words say which argument it is."""
    channel.queue_declare(queue, durable=True, arguments={"x-message-ttl": 5000})
    with pytest.raises(PreconditionFailed, match="x-message-ttl"):
        app.tasks["shop.add"].delay(1)


def test_the_settings_are_frozen_by_the_first_call(app: App) -> None:
    """The error names the call."""
    app.tasks["shop.add"].delay(1)
    with pytest.raises(ConfigurationError, match=r"frozen since shop\.add was sent"):
        app.conf.task_default_queue = "other"


def test_a_result_comes_back(app: App, queue: str, channel: BlockingChannel) -> None:
    """PENDING until the worker's answer is here; then it is kept, and can be asked for again and again."""
    result = app.tasks["shop.add"].delay(2, 3)
    assert (result.state, result.ready(), result.successful(), result.traceback) == ("PENDING", False, False, None)
    with pytest.raises(ResultTimeout, match=rf"no result of shop\.add, id {result.id}, within 0\.05 s; it is PENDING") as caught:
        result.get(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    work(app, channel, queue)
    assert result.get(timeout=10) == 5
    assert result.get(timeout=0) == 5
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)


def test_a_failure_comes_back(app: App, queue: str, channel: BlockingChannel) -> None:
    """The task's own exception is raised, with the worker's traceback among its notes."""
    result = app.tasks["shop.add"].delay(-1)
    work(app, channel, queue)
    with pytest.raises(ValueError, match="below zero") as caught:
        result.get(timeout=10)
    assert not isinstance(caught.value, TaskFailed)
    assert "in add" in caught.value.__notes__[0]
    assert result.traceback is not None
    assert (result.state, result.ready(), result.successful()) == ("FAILURE", True, False)


def test_results_come_in_the_order_of_their_ends(app: App, queue: str, channel: BlockingChannel) -> None:
    """as_completed yields each once; the time it has is for all of them together."""
    results = [app.tasks["shop.add"].delay(number) for number in range(5)]
    for _ in range(4):
        work(app, channel, queue)
    found: list[object] = []
    with pytest.raises(ResultTimeout, match="1 of 5 results"):
        found.extend(result.get(timeout=0) for result in as_completed(results, timeout=1))
    assert sorted(found) == [0, 1, 2, 3]
    assert list(as_completed([])) == []
    with pytest.raises(ValueError, match="one app"):
        list(as_completed([results[0], App("other", broker=app.conf.broker_url).result("x")]))


def test_threads_may_send_at_once(app: App, queue: str, channel: BlockingChannel) -> None:
    """Every call of every thread is confirmed, and there once."""
    threads = [threading.Thread(target=lambda: [app.tasks["shop.add"].delay(n) for n in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert channel.queue_declare(queue, passive=True).method.message_count == 160


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_sends_for_itself(app: App, queue: str, channel: BlockingChannel) -> None:
    """As under gunicorn with preload: parent and child each have a connection, and neither harms the other's."""
    add = app.tasks["shop.add"]
    add.delay(1)
    child = os.fork()
    if not child:
        code = 1
        try:
            add.delay(2)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    add.delay(3)
    assert channel.queue_declare(queue, passive=True).method.message_count == 3


def test_an_app_that_was_closed_opens_again(app: App, queue: str, channel: BlockingChannel) -> None:
    """Closing lets go of the connection, twice is once, and the next call makes a new one."""
    with app:
        app.tasks["shop.add"].delay(1)
    app.close()
    app.tasks["shop.add"].delay(2)
    wait_until(lambda: channel.queue_declare(queue, passive=True).method.message_count == 2, 5, "both messages")


def test_an_unreachable_broker_is_told_in_time() -> None:
    """Within the deadline, with the URL and without the password; nothing hangs."""
    app = App("shop", broker=f"amqp://me:secret@127.0.0.1:{free_port()}//")
    app.conf.broker_publish_timeout = 1
    task = app.task(name="t")(lambda: None)
    started_s = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        task.delay()
    assert time.monotonic() - started_s < 3
    assert "amqp://me:***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
