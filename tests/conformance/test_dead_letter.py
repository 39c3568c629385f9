"""RabbitMQ's extensions for messages that nobody takes: time to live, queues that expire, dead letters."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, NackError

from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, get_when_there, publish, settle
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until


class Post:
    """A queue whose dead letters go through a fanout exchange into another one."""

    def __init__(self, broker: Broker, channel: BlockingChannel, **arguments: Any) -> None:
        """Declare it all; ``arguments`` are the queue's, with ``_`` for ``-``."""
        self.channel = channel
        self.exchange = broker.name("dlx")
        channel.exchange_declare(self.exchange, exchange_type="fanout", auto_delete=True)
        self.letters = channel.queue_declare(broker.name("letters"), exclusive=True).method.queue
        channel.queue_bind(self.letters, self.exchange)
        own = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.queue = broker.name("queue")
        channel.queue_declare(self.queue, exclusive=True, arguments={"x-dead-letter-exchange": self.exchange, **own})


def _wait_until_empty(channel: BlockingChannel, queue: str) -> None:
    def is_empty() -> bool:
        return bool(channel.queue_declare(queue, passive=True).method.message_count == 0)

    wait_until(is_empty, 10.0, f"{queue} to be empty")


def _reject_one(channel: BlockingChannel, queue: str) -> None:
    message = get_when_there(channel, queue, auto_ack=False)
    channel.basic_reject(message.method.delivery_tag, requeue=False)


# ---------------------------------------------------------------------------------------------------- time to live


def test_message_older_than_its_queues_ttl_is_dropped(broker: Broker, channel: BlockingChannel) -> None:
    """x-message-ttl is how many milliseconds a message may wait in the queue."""
    queue = channel.queue_declare(broker.name("queue"), exclusive=True, arguments={"x-message-ttl": 30}).method.queue
    publish(channel, queue, b"")
    _wait_until_empty(channel, queue)


def test_message_older_than_its_own_expiration_is_dropped(channel: BlockingChannel, queue: str) -> None:
    """The property expiration is how many milliseconds a message may wait."""
    publish(channel, queue, b"", expiration="30")
    _wait_until_empty(channel, queue)


@pytest.mark.parametrize(("ttl", "expiration"), [(30, "600000"), (600_000, "30")])
def test_shorter_of_both_lives_counts(broker: Broker, channel: BlockingChannel, ttl: int, expiration: str) -> None:
    """A message lives as long as the queue and the message allow."""
    queue = channel.queue_declare(broker.name("queue"), exclusive=True, arguments={"x-message-ttl": ttl}).method.queue
    publish(channel, queue, b"", expiration=expiration)
    _wait_until_empty(channel, queue)


def test_expired_message_behind_a_living_one_is_not_delivered(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """Messages expire at the head of their queue: behind another one they are counted, but never delivered."""
    publish(channel, queue, b"living")
    publish(channel, queue, b"dead", expiration="20")
    other = channel.queue_declare(broker.name("other"), exclusive=True).method.queue
    publish(channel, other, b"dead", expiration="40")
    _wait_until_empty(channel, other)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2
    assert get_when_there(channel, queue).body == b"living"
    _wait_until_empty(channel, queue)


def test_ttl_of_zero_delivers_at_once_or_never(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """A message that may not wait reaches a consumer that is ready, or nobody."""
    publish(channel, queue, b"nobody is there", expiration="0")
    _wait_until_empty(channel, queue)
    inbox = Inbox(channel, queue, auto_ack=True)
    publish(channel, queue, b"somebody is there", expiration="0")
    inbox.wait_for(1)
    assert inbox.bodies == [b"somebody is there"]


def test_requeued_message_keeps_its_end_of_life(channel: BlockingChannel, queue: str) -> None:
    """The time a message spends with a consumer counts."""
    publish(channel, queue, b"", expiration="50")
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_nack(method.delivery_tag, requeue=True)
    _wait_until_empty(channel, queue)


# ---------------------------------------------------------------------------------------------------- queues that expire


def test_unused_queue_expires(broker: Broker, channel: BlockingChannel) -> None:
    """x-expires is how many milliseconds a queue may be without use before it is deleted."""
    name = broker.name("queue")
    channel.queue_declare(name, durable=True, arguments={"x-expires": 50})

    def is_gone() -> bool:
        try:
            channel.connection.channel().queue_declare(name, passive=True)
        except ChannelClosedByBroker as error:
            return bool(error.reply_code == 404)
        return False

    wait_until(is_gone, 10.0, f"{name} to expire")


def test_queue_with_a_consumer_does_not_expire(broker: Broker, channel: BlockingChannel) -> None:
    """A consumer is use."""
    name, short = broker.name("queue"), broker.name("short")
    channel.queue_declare(name, exclusive=True, arguments={"x-expires": 40})
    Inbox(channel, name)
    channel.queue_declare(short, exclusive=True, arguments={"x-message-ttl": 120})
    publish(channel, short, b"")
    _wait_until_empty(channel, short)
    channel.queue_declare(name, passive=True)


def test_messages_of_an_expired_queue_are_not_dead_lettered(broker: Broker, channel: BlockingChannel) -> None:
    """A queue that expires takes its messages with it."""
    post = Post(broker, channel, x_expires=40)
    publish(channel, post.queue, b"gone")
    wait_until(lambda: channel.connection.channel().queue_delete(post.queue).method.message_count == 0, 10.0, "expiry")
    assert settle(channel, post.letters) == 0


# ---------------------------------------------------------------------------------------------------- dead letters


@pytest.mark.parametrize("how", ["reject", "nack"])
def test_rejected_message_becomes_a_dead_letter(broker: Broker, channel: BlockingChannel, how: str) -> None:
    """A message rejected without requeue goes to the queue's dead-letter exchange, reason ``rejected``."""
    post = Post(broker, channel)
    publish(channel, post.queue, b"body", message_id="id", headers={"mine": 1})
    method, _, _ = channel.basic_get(post.queue)
    assert method is not None
    if how == "reject":
        channel.basic_reject(method.delivery_tag, requeue=False)
    else:
        channel.basic_nack(method.delivery_tag, requeue=False)
    letter = get_when_there(channel, post.letters)
    assert (letter.body, letter.properties.message_id) == (b"body", "id")
    assert (letter.method.exchange, letter.method.routing_key) == (post.exchange, post.queue)
    headers = letter.properties.headers
    assert headers["mine"] == 1
    assert headers["x-death"][0]["reason"] == "rejected"


def test_x_death_tells_how_a_message_died(broker: Broker, channel: BlockingChannel) -> None:
    """The header x-death has a table of count, reason, queue, time, exchange and routing-keys; x-first-death-* repeat it."""
    post = Post(broker, channel, x_message_ttl=20)
    key = broker.name("key")
    channel.queue_bind(post.queue, "amq.topic", key)
    before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    channel.basic_publish("amq.topic", key, b"body")
    headers = get_when_there(channel, post.letters).properties.headers
    (death,) = headers["x-death"]
    time = death.pop("time")
    assert death == {
        "count": 1,
        "reason": "expired",
        "queue": post.queue,
        "exchange": "amq.topic",
        "routing-keys": [key],
    }
    assert before <= time.replace(tzinfo=None) <= before + datetime.timedelta(seconds=30)
    facts = {"queue": post.queue, "reason": "expired", "exchange": "amq.topic"}
    assert {name: headers[f"x-first-death-{name}"] for name in facts} == facts
    if broker.version >= (3, 13):  # since then also of the last death
        assert {name: headers[f"x-last-death-{name}"] for name in facts} == facts


def test_x_death_is_written_with_the_types_clients_expect(broker: Broker, channel: BlockingChannel, raw: RawClient) -> None:
    """An array of tables: count a 64-bit integer, time a timestamp, the rest long strings and an array of them."""
    exchange, letters = broker.name("dlx"), broker.name("letters")
    raw.open(broker.vhost)
    raw.open_channel(1)
    raw.send_method(1, spec.Exchange.Declare(exchange=exchange, type="fanout", auto_delete=True))
    raw.receive_method(spec.Exchange.DeclareOk)
    raw.send_method(1, spec.Queue.Declare(queue=letters, exclusive=True))
    raw.receive_method(spec.Queue.DeclareOk)
    raw.send_method(1, spec.Queue.Bind(queue=letters, exchange=exchange))
    raw.receive_method(spec.Queue.BindOk)
    arguments = {"x-dead-letter-exchange": exchange, "x-message-ttl": 0}
    raw.send_method(1, spec.Queue.Declare(queue=broker.name("queue"), exclusive=True, arguments=arguments))
    queue = raw.receive_method(spec.Queue.DeclareOk).queue
    raw.send_method(1, spec.Basic.Consume(queue=letters, consumer_tag="t", no_ack=True))
    raw.receive_method(spec.Basic.ConsumeOk)
    raw.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw.send_content(1, b"body", spec.BasicProperties(expiration="0"))
    raw.receive_method(spec.Basic.Deliver)
    prefix = raw.receive_bytes(7)
    payload = raw.receive_bytes(int.from_bytes(prefix[3:7], "big"))

    def long_string(text: str) -> bytes:
        return b"S" + len(text).to_bytes(4, "big") + text.encode()

    assert b"\x07x-deathA" in payload
    assert b"\x05countl" + (1).to_bytes(8, "big") in payload
    assert b"\x06reason" + long_string("expired") in payload
    assert b"\x05queue" + long_string(queue) in payload
    assert b"\x04timeT" in payload
    assert b"\x08exchange" + long_string("") in payload
    keys = long_string(queue)
    assert b"\x0crouting-keysA" + len(keys).to_bytes(4, "big") + keys in payload
    assert b"\x13original-expiration" + long_string("0") in payload
    assert b"\x13x-first-death-queue" + long_string(queue) in payload


def test_expiration_is_taken_off_a_dead_letter(broker: Broker, channel: BlockingChannel) -> None:
    """A dead letter does not expire again at once: the property moves into x-death as original-expiration."""
    post = Post(broker, channel)
    publish(channel, post.queue, b"", expiration="20")
    letter = get_when_there(channel, post.letters)
    assert letter.properties.expiration is None
    assert letter.properties.headers["x-death"][0]["original-expiration"] == "20"


def test_dead_letter_routing_key_replaces_the_messages(broker: Broker, channel: BlockingChannel) -> None:
    """With x-dead-letter-routing-key every dead letter of the queue has that key."""
    post = Post(broker, channel, x_dead_letter_routing_key="new-key", x_message_ttl=0)
    publish(channel, post.queue, b"")
    letter = get_when_there(channel, post.letters)
    assert letter.method.routing_key == "new-key"
    assert letter.properties.headers["x-death"][0]["routing-keys"] == [post.queue]


def test_default_exchange_can_be_the_dead_letter_exchange(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """With the empty name and a routing key, dead letters go straight to a queue."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 0}
    dying = channel.queue_declare(broker.name("dying"), exclusive=True, arguments=arguments).method.queue
    publish(channel, dying, b"body")
    letter = get_when_there(channel, queue)
    assert (letter.body, letter.method.exchange, letter.method.routing_key) == (b"body", "", queue)


def test_dead_letters_keep_their_order(broker: Broker, channel: BlockingChannel) -> None:
    """Messages that expire together arrive in the order they had."""
    post = Post(broker, channel, x_message_ttl=20)
    bodies = [str(number).encode() for number in range(20)]
    for body in bodies:
        publish(channel, post.queue, body)
    assert [get_when_there(channel, post.letters).body for _ in bodies] == bodies


def test_missing_dead_letter_exchange_drops_the_message(broker: Broker, channel: BlockingChannel) -> None:
    """A dead-letter exchange need not exist; without it the message is gone."""
    arguments = {"x-dead-letter-exchange": broker.name("missing")}
    queue = channel.queue_declare(broker.name("queue"), exclusive=True, arguments=arguments).method.queue
    publish(channel, queue, b"")
    _reject_one(channel, queue)
    assert settle(channel, queue) == 0


def test_purged_and_deleted_messages_are_not_dead_lettered(broker: Broker, channel: BlockingChannel) -> None:
    """Purging and deleting are no deaths."""
    post = Post(broker, channel)
    publish(channel, post.queue, b"purged")
    channel.queue_purge(post.queue)
    publish(channel, post.queue, b"deleted")
    channel.queue_delete(post.queue)
    assert settle(channel, post.letters) == 0


def test_second_death_of_the_same_kind_is_counted(broker: Broker, channel: BlockingChannel) -> None:
    """One entry per queue and reason, the newest in front, with a count."""
    retry, work = broker.name("retry"), broker.name("work")
    channel.queue_declare(
        retry, exclusive=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": work, "x-message-ttl": 10}
    )
    channel.queue_declare(work, exclusive=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": retry})
    publish(channel, work, b"body")
    deaths: list[list[tuple[str, str, int]]] = []
    for _ in range(3):
        message = get_when_there(channel, work, auto_ack=False)
        headers = message.properties.headers or {}
        deaths.append([(death["queue"], death["reason"], death["count"]) for death in headers.get("x-death", [])])
        channel.basic_reject(message.method.delivery_tag, requeue=False)
    assert deaths == [
        [],
        [(retry, "expired", 1), (work, "rejected", 1)],
        [(retry, "expired", 2), (work, "rejected", 2)],
    ]


def test_message_that_only_expires_in_a_circle_is_dropped(broker: Broker, channel: BlockingChannel) -> None:
    """A loop without a rejection would never end: the message is dropped when it would come back."""
    first = Post(broker, channel, x_message_ttl=10)
    second = Post(broker, channel, x_message_ttl=10)
    channel.queue_bind(second.queue, first.exchange)
    channel.queue_bind(first.queue, second.exchange)
    publish(channel, first.queue, b"")
    get_when_there(channel, second.letters)  # it went through both, and was routed to the first queue as it was to this one
    method, _, _ = channel.basic_get(first.queue)
    assert method is None


def test_dead_letter_goes_to_every_queue_of_the_exchange(broker: Broker, channel: BlockingChannel) -> None:
    """A dead letter is routed like any message; without a route it is gone."""
    post = Post(broker, channel)
    second = channel.queue_declare(broker.name("second"), exclusive=True).method.queue
    channel.queue_bind(second, post.exchange)
    publish(channel, post.queue, b"body")
    _reject_one(channel, post.queue)
    assert get_when_there(channel, post.letters).body == get_when_there(channel, second).body == b"body"


# ---------------------------------------------------------------------------------------------------- length limits


def test_full_queue_drops_its_oldest_message(broker: Broker, channel: BlockingChannel) -> None:
    """Beyond x-max-length the head is dead-lettered, reason ``maxlen``."""
    post = Post(broker, channel, x_max_length=2)
    for body in (b"1", b"2", b"3"):
        publish(channel, post.queue, body)
    assert settle(channel, post.queue) == 2
    letter = get_when_there(channel, post.letters)
    assert (letter.body, letter.properties.headers["x-death"][0]["reason"]) == (b"1", "maxlen")
    assert [get_when_there(channel, post.queue).body for _ in range(2)] == [b"2", b"3"]


def test_full_queue_may_refuse_instead(raw_channel: RawClient) -> None:
    """With x-overflow=reject-publish a full queue refuses a message: basic.nack to the publisher."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True, arguments=arguments))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Confirm.Select())
    raw_channel.receive_method(spec.Confirm.SelectOk)
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send_content(1, b"first")
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 1
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send_content(1, b"second")
    assert raw_channel.receive_method(spec.Basic.Nack).delivery_tag == 2


def test_full_queue_may_count_bytes(broker: Broker, channel: BlockingChannel) -> None:
    """Beyond x-max-length-bytes of ready bodies the head is dropped, as many as it takes."""
    post = Post(broker, channel, x_max_length_bytes=6)
    for body in (b"12", b"34", b"5678"):
        publish(channel, post.queue, body)
    assert settle(channel, post.queue) == 2
    assert get_when_there(channel, post.letters).body == b"12"
    assert [get_when_there(channel, post.queue).body for _ in range(2)] == [b"34", b"5678"]


def _answers(client: RawClient, count: int) -> dict[int, str]:
    """Return ack or nack by publish, for the next ``count`` publishes of the channel."""
    answers: dict[int, str] = {}
    while len(answers) < count:
        method = client.receive().method
        assert isinstance(method, spec.Basic.Ack | spec.Basic.Nack)
        first = 1 if method.multiple else method.delivery_tag
        for tag in range(first, method.delivery_tag + 1):
            answers.setdefault(tag, "ack" if isinstance(method, spec.Basic.Ack) else "nack")
    return answers


def test_only_what_a_full_queue_refused_is_nacked(raw_channel: RawClient) -> None:
    """Every publish gets its own answer, however the broker gathers them."""
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True, arguments=arguments))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Confirm.Select())
    raw_channel.receive_method(spec.Confirm.SelectOk)
    for number in range(4):
        raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
        raw_channel.send_content(1, b"%d" % number)
    raw_channel.send_method(1, spec.Basic.Publish(routing_key="nowhere"))
    raw_channel.send_content(1, b"goes nowhere, and that is confirmed")
    assert _answers(raw_channel, 5) == {1: "ack", 2: "ack", 3: "nack", 4: "nack", 5: "ack"}


def test_refused_message_may_be_dead_lettered(broker: Broker, channel: BlockingChannel) -> None:
    """With x-overflow=reject-publish-dlx the refused message itself is the dead letter, reason ``maxlen``."""
    post = Post(broker, channel, x_max_length=1, x_overflow="reject-publish-dlx")
    publish(channel, post.queue, b"1")
    with pytest.raises(NackError):
        publish(channel, post.queue, b"2")
    letter = get_when_there(channel, post.letters)
    assert (letter.body, letter.properties.headers["x-death"][0]["reason"]) == (b"2", "maxlen")
    assert get_when_there(channel, post.queue).body == b"1"
