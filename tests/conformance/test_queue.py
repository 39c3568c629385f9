"""AMQP 0-9-1, class queue: declaring, binding, purging, deleting; who owns a queue and how long it lives."""

from __future__ import annotations

import re

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, channel_closed, get_when_there, publish, settle
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until


@pytest.fixture
def name(broker: Broker) -> str:
    """Make up a name."""
    return broker.name("queue")


def _missing(broker: Broker, name: str) -> tuple[int, str]:
    return 404, f"NOT_FOUND - no queue '{name}' in vhost '{broker.vhost}'"


def _locked(broker: Broker, name: str) -> tuple[int, str]:
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '{broker.vhost}'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the original "
        "declaration."
    )
    return 405, text[:255]  # a short string ends there


# ---------------------------------------------------------------------------------------------------- declare


def test_declare_ok_names_the_queue_and_counts(channel: BlockingChannel, name: str) -> None:
    """queue.declare-ok tells the name, the messages that are ready and the consumers (1.7.2.2)."""
    declared = channel.queue_declare(name, exclusive=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (name, 0, 0)
    publish(channel, name, b"1", b"2")
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, name)
    settle(channel, name)
    declared = channel.queue_declare(name, exclusive=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (name, 1, 1)


def test_messages_not_yet_acknowledged_are_not_counted(channel: BlockingChannel, queue: str) -> None:
    """message-count is of the messages that are ready (1.7.2.2.2)."""
    publish(channel, queue, b"1", b"2", b"3")
    channel.basic_get(queue)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2


def test_empty_name_gets_one_from_the_broker(channel: BlockingChannel) -> None:
    """A queue declared without a name gets a new one: ``amq.gen-`` and 22 characters (1.7.2.1.2)."""
    names = {channel.queue_declare("", exclusive=True).method.queue for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name) for name in names)


def test_empty_name_later_means_the_queue_declared_last(broker: Broker, raw_channel: RawClient) -> None:
    """Where a queue is named by nothing, the channel's last declared queue is meant (1.7.2.1.2)."""
    name, exchange = broker.name("last"), broker.name("exchange")
    raw_channel.send_method(1, spec.Exchange.Declare(exchange=exchange, type="direct", auto_delete=True))
    raw_channel.receive_method(spec.Exchange.DeclareOk)
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, exclusive=True))
    raw_channel.receive_method(spec.Queue.DeclareOk)
    # No queue and no routing key: the queue's name is both.
    raw_channel.send_method(1, spec.Queue.Bind(exchange=exchange))
    raw_channel.receive_method(spec.Queue.BindOk)
    raw_channel.send_method(1, spec.Basic.Publish(exchange=exchange, routing_key=name))
    raw_channel.send_content(1, b"body")
    raw_channel.send_method(1, spec.Queue.Purge())
    assert raw_channel.receive_method(spec.Queue.PurgeOk).message_count == 1
    raw_channel.send_method(1, spec.Basic.Get())
    raw_channel.receive_method(spec.Basic.GetEmpty)
    raw_channel.send_method(1, spec.Queue.Delete())
    assert raw_channel.receive_method(spec.Queue.DeleteOk).message_count == 0


def test_empty_name_without_a_declared_queue_is_not_found(raw_channel: RawClient) -> None:
    """There is no last queue on a channel that has declared none (1.7.2.1.2)."""
    raw_channel.send_method(1, spec.Queue.Purge())
    close = raw_channel.receive_method(spec.Channel.Close)
    assert (close.reply_code, close.reply_text) == (404, "NOT_FOUND - no previously declared queue")


def test_passive_declare_of_a_missing_queue_is_not_found(broker: Broker, raw_channel: RawClient, name: str) -> None:
    """Passive declare asks whether a queue exists (1.7.2.1.3)."""
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, passive=True))
    close = raw_channel.receive_method(spec.Channel.Close)
    assert (close.reply_code, close.reply_text) == _missing(broker, name)
    assert (close.class_id, close.method_id) == (50, 10)


def test_reserved_names_cannot_be_created(broker: Broker, channel: BlockingChannel) -> None:
    """Names that begin with ``amq.`` are the broker's (1.7.2.1.2)."""
    name = broker.name("amq.foo")
    with channel_closed(403, f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"):
        channel.queue_declare(name)


@pytest.mark.parametrize("flag", ["durable", "auto_delete"])
def test_other_flags_are_a_failed_precondition(
    broker: Broker, channel: BlockingChannel, other_channel: BlockingChannel, name: str, flag: str
) -> None:
    """A queue cannot be declared anew with other flags (1.7.2.1, rule "equivalent")."""
    channel.queue_declare(name, **{flag: True})
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{flag}' for queue '{name}' in vhost '{broker.vhost}': "
        "received 'false' but current is 'true'"
    )
    with channel_closed(406, text):
        other_channel.queue_declare(name)
    channel.queue_delete(name)


def test_exclusive_queue_is_never_durable(channel: BlockingChannel, name: str) -> None:
    """An exclusive queue ends with its connection, so its durable flag means nothing and is not compared."""
    channel.queue_declare(name, exclusive=True)
    channel.queue_declare(name, exclusive=True, durable=True)


def test_declare_without_wait_has_no_answer(broker: Broker, raw_channel: RawClient, name: str) -> None:
    """With no-wait the broker does not answer (1.7.2.1.7)."""
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, exclusive=True, nowait=True))
    raw_channel.send_method(1, spec.Queue.Bind(queue=name, exchange="amq.direct", routing_key=name, nowait=True))
    raw_channel.send_method(1, spec.Queue.Purge(queue=name, nowait=True))
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, passive=True))
    assert raw_channel.receive_method(spec.Queue.DeclareOk).queue == name


# ---------------------------------------------------------------------------------------------------- arguments


def test_known_argument_is_part_of_the_queue(broker: Broker, channel: BlockingChannel, name: str) -> None:
    """An argument the broker knows is compared."""
    channel.queue_declare(name, exclusive=True)
    with channel_closed(
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{name}' in vhost '{broker.vhost}': "
        "received the value '1000' of type 'signedint' but current is none",
    ):
        channel.queue_declare(name, exclusive=True, arguments={"x-message-ttl": 1000})


def test_changed_argument_is_a_failed_precondition(broker: Broker, channel: BlockingChannel, name: str) -> None:
    """The message says what was received and what the queue has."""
    channel.queue_declare(name, exclusive=True, arguments={"x-max-priority": 5})
    with channel_closed(
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue '{name}' in vhost '{broker.vhost}': "
        "received '6' but current is '5'",
    ):
        channel.queue_declare(name, exclusive=True, arguments={"x-max-priority": 6})


def test_unknown_argument_is_ignored(channel: BlockingChannel, name: str) -> None:
    """An argument the broker does not know changes nothing, and is not compared."""
    channel.queue_declare(name, exclusive=True, arguments={"x-of-nobody": 1})
    channel.queue_declare(name, exclusive=True, arguments={"x-of-nobody": 2})


def test_no_queue_type_means_classic(channel: BlockingChannel, name: str) -> None:
    """A queue declared without a type is equal to one declared classic."""
    channel.queue_declare(name, exclusive=True)
    channel.queue_declare(name, exclusive=True, arguments={"x-queue-type": "classic"})


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("x-message-ttl", -1, "{value_negative,-1}"),
        ("x-message-ttl", "1000", '"expected integer, got longstr"'),
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", -5, "{value_negative,-5}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-max-length", -1, "{value_negative,-1}"),
        ("x-overflow", "drop-tail", "invalid_overflow"),
        ("x-dead-letter-routing-key", "key", "routing_key_but_no_dlx_defined"),
        ("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
    ],
)
def test_wrong_value_of_an_argument_is_a_failed_precondition(
    broker: Broker, channel: BlockingChannel, name: str, argument: str, value: object, reason: str
) -> None:
    """The message names the argument and what is wrong with it, in RabbitMQ's words."""
    text = f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '{broker.vhost}': {reason}"
    with channel_closed(406, text):
        channel.queue_declare(name, exclusive=True, arguments={argument: value})


# ---------------------------------------------------------------------------------------------------- bind, unbind


def test_binding_to_a_missing_exchange_is_not_found(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """A queue is bound to an exchange that exists (1.7.2.3.3)."""
    missing = broker.name("missing")
    with channel_closed(404, f"NOT_FOUND - no exchange '{missing}' in vhost '{broker.vhost}'"):
        channel.queue_bind(queue, missing, "key")


def test_binding_a_missing_queue_is_not_found(broker: Broker, channel: BlockingChannel, name: str) -> None:
    """A queue that is bound exists (1.7.2.3.2)."""
    with channel_closed(*_missing(broker, name)):
        channel.queue_bind(name, "amq.direct", "key")


def test_binding_twice_is_binding_once(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """A binding that exists is not made again (1.7.2.3, rule "duplicates")."""
    key = broker.name("key")
    channel.queue_bind(queue, "amq.direct", key)
    channel.queue_bind(queue, "amq.direct", key)
    channel.queue_unbind(queue, "amq.direct", key)
    channel.confirm_delivery()
    channel.basic_publish("amq.direct", key, b"")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


# ---------------------------------------------------------------------------------------------------- purge, delete


def test_purge_removes_what_is_ready_and_counts_it(channel: BlockingChannel, queue: str) -> None:
    """Messages delivered and not acknowledged are not purged (1.7.2.7)."""
    for body in (b"taken", b"ready", b"ready"):
        channel.basic_publish("", queue, body)
    taken, _, _ = channel.basic_get(queue)
    assert taken is not None
    assert channel.queue_purge(queue).method.message_count == 2
    channel.basic_nack(taken.delivery_tag, requeue=True)
    assert get_when_there(channel, queue).body == b"taken"


def test_purging_a_missing_queue_is_not_found(broker: Broker, channel: BlockingChannel, name: str) -> None:
    """A queue that is purged exists (1.7.2.7.2)."""
    with channel_closed(*_missing(broker, name)):
        channel.queue_purge(name)


def test_delete_counts_the_messages_and_removes_the_queue(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """queue.delete-ok counts the messages that went with the queue (1.7.2.10)."""
    channel.basic_publish("", queue, b"")
    channel.basic_publish("", queue, b"")
    assert channel.queue_delete(queue).method.message_count == 2
    with channel_closed(*_missing(broker, queue)):
        channel.queue_declare(queue, passive=True)


def test_deleting_a_missing_queue_succeeds(channel: BlockingChannel, name: str) -> None:
    """What is not there is deleted, with no messages."""
    assert channel.queue_delete(name).method.message_count == 0


def test_queue_with_a_consumer_is_kept_by_if_unused(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """With if-unused a queue that has consumers is not deleted (1.7.2.9.3)."""
    Inbox(channel.connection.channel(), queue)
    with channel_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '{broker.vhost}' in use"):
        channel.queue_delete(queue, if_unused=True)


def test_queue_with_a_message_is_kept_by_if_empty(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """With if-empty a queue that has messages is not deleted (1.7.2.9.4)."""
    channel.basic_publish("", queue, b"")
    with channel_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '{broker.vhost}' not empty"):
        channel.queue_delete(queue, if_empty=True)


def test_deleted_queues_name_can_be_used_again(channel: BlockingChannel, name: str) -> None:
    """Nothing of a deleted queue is left: neither messages nor bindings nor flags."""
    channel.queue_declare(name, exclusive=True, auto_delete=True)
    channel.queue_bind(name, "amq.direct", name)
    channel.basic_publish("", name, b"")
    channel.queue_delete(name)
    assert channel.queue_declare(name, exclusive=True).method.message_count == 0
    channel.confirm_delivery()
    channel.basic_publish("amq.direct", name, b"")
    assert channel.queue_declare(name, passive=True).method.message_count == 0


# ---------------------------------------------------------------------------------------------------- exclusive, auto-delete


def test_exclusive_queue_is_locked_for_other_connections(broker: Broker, connect: Connect, queue: str) -> None:
    """Only the connection that declared it may use an exclusive queue, whatever for (1.7.2.1.5)."""
    connection = connect()
    uses = {
        "declare": lambda other: other.queue_declare(queue, exclusive=True),
        "passive": lambda other: other.queue_declare(queue, passive=True),
        "consume": lambda other: Inbox(other, queue),
        "get": lambda other: other.basic_get(queue),
        "purge": lambda other: other.queue_purge(queue),
        "bind": lambda other: other.queue_bind(queue, "amq.direct", "key"),
        "delete": lambda other: other.queue_delete(queue),
    }
    for use in uses.values():
        with channel_closed(*_locked(broker, queue)):
            use(connection.channel())


def test_exclusive_queue_takes_messages_from_others(channel: BlockingChannel, other_channel: BlockingChannel, queue: str) -> None:
    """Exclusive is about using a queue, not about publishing to it (1.7.2.1.5)."""
    other_channel.basic_publish("", queue, b"body")
    assert get_when_there(channel, queue).body == b"body"


def test_exclusive_and_shared_are_not_the_same_queue(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """The connection itself cannot declare its exclusive queue without the flag (1.7.2.1.5)."""
    with channel_closed(*_locked(broker, queue)):
        channel.queue_declare(queue, exclusive=False)


def test_exclusive_queue_goes_with_its_connection(broker: Broker, connect: Connect, channel: BlockingChannel, name: str) -> None:
    """An exclusive queue is deleted when its connection ends, declared durable or not (1.7.2.1.5)."""
    owner = connect()
    owner.channel().queue_declare(name, exclusive=True, durable=True)
    owner.close()
    with channel_closed(*_missing(broker, name)):
        channel.queue_declare(name, passive=True)


def test_auto_delete_queue_goes_with_its_last_consumer(broker: Broker, channel: BlockingChannel, name: str) -> None:
    """An auto-delete queue is deleted when its last consumer is cancelled (1.7.2.1.6)."""
    channel.queue_declare(name, auto_delete=True)
    first, second = Inbox(channel, name), Inbox(channel, name)
    channel.basic_cancel(first.tag)
    channel.queue_declare(name, passive=True)
    channel.basic_cancel(second.tag)
    with channel_closed(*_missing(broker, name)):
        channel.queue_declare(name, passive=True)


def test_auto_delete_queue_goes_when_its_consumers_connection_ends(
    broker: Broker, connect: Connect, channel: BlockingChannel, name: str
) -> None:
    """A consumer that is lost counts like one that is cancelled (1.7.2.1.6)."""
    channel.queue_declare(name, auto_delete=True)
    consuming = connect()
    Inbox(consuming.channel(), name)
    consuming.close()

    def is_gone() -> bool:
        return channel.connection.channel().queue_delete(name, if_empty=False).method.message_count == 0

    wait_until(is_gone, 5.0, f"{name} to be deleted")
    with channel_closed(*_missing(broker, name)):
        channel.queue_declare(name, passive=True)


def test_auto_delete_queue_without_a_consumer_stays(channel: BlockingChannel, name: str) -> None:
    """A queue that never had a consumer is not deleted; basic.get is not one (1.7.2.1.6)."""
    channel.queue_declare(name, auto_delete=True)
    channel.basic_publish("", name, b"")
    get_when_there(channel, name)
    channel.queue_declare(name, auto_delete=True)
    channel.queue_delete(name)


# ---------------------------------------------------------------------------------------------------- priorities


def test_higher_priorities_are_delivered_first(channel: BlockingChannel, name: str) -> None:
    """A queue with x-max-priority gives the highest first, equals in order; without a priority is 0."""
    channel.queue_declare(name, exclusive=True, arguments={"x-max-priority": 5})
    for body, priority in ((b"a0", None), (b"b2", 2), (b"c5", 5), (b"d2", 2), (b"e9", 9), (b"f0", 0)):
        publish(channel, name, body, priority=priority)
    received = [get_when_there(channel, name) for _ in range(6)]
    assert [message.body for message in received] == [b"c5", b"e9", b"b2", b"d2", b"a0", b"f0"]
    assert received[1].properties.priority == 9


def test_without_x_max_priority_order_is_order_of_arrival(channel: BlockingChannel, queue: str) -> None:
    """A queue that has no priorities keeps its order whatever the messages say."""
    for body, priority in ((b"low", 0), (b"high", 9)):
        publish(channel, queue, body, priority=priority)
    assert [get_when_there(channel, queue).body for _ in range(2)] == [b"low", b"high"]
