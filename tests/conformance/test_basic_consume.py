"""AMQP 0-9-1, class basic: consuming, cancelling, acknowledging, rejecting, recovering."""

from __future__ import annotations

import re

import pytest
from pika import frame as frames
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, channel_closed, connection_closed, get_when_there, publish, settle
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until

# ---------------------------------------------------------------------------------------------------- consume, deliver


def test_delivery_tells_where_a_message_comes_from(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """basic.deliver names consumer, tag, exchange and routing key (1.8.3.9)."""
    key = broker.name("key")
    channel.queue_bind(queue, "amq.topic", key)
    inbox = Inbox(channel, queue, consumer_tag="my-tag")
    channel.basic_publish("amq.topic", key, b"body", spec.BasicProperties(message_id="id"))
    (received,) = inbox.wait_for(1)
    assert (received.method.consumer_tag, received.method.delivery_tag, received.method.redelivered) == ("my-tag", 1, False)
    assert (received.method.exchange, received.method.routing_key) == ("amq.topic", key)
    assert (received.properties.message_id, received.body) == ("id", b"body")


def test_consume_ok_comes_before_the_first_delivery(raw_channel: RawClient) -> None:
    """A consumer knows its tag before it gets anything (1.8.3.3)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send_content(1, b"body")
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="mine"))
    assert raw_channel.receive_method(spec.Basic.ConsumeOk).consumer_tag == "mine"
    assert raw_channel.receive_method(spec.Basic.Deliver).consumer_tag == "mine"


def test_consume_without_wait_has_no_answer(raw_channel: RawClient) -> None:
    """With no-wait the deliveries begin at once (1.8.3.3.7)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="mine", nowait=True))
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send_content(1, b"body")
    assert raw_channel.receive_method(spec.Basic.Deliver).consumer_tag == "mine"


def test_empty_consumer_tag_gets_one_from_the_broker(raw_channel: RawClient) -> None:
    """A consumer without a tag gets a new one: ``amq.ctag-`` and 22 characters (1.8.3.3.3)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    tags = []
    for _ in range(2):
        raw_channel.send_method(1, spec.Basic.Consume(queue=queue))
        tags.append(raw_channel.receive_method(spec.Basic.ConsumeOk).consumer_tag)
    assert len(set(tags)) == 2
    assert all(re.fullmatch(r"amq\.ctag-[A-Za-z0-9_-]{22}", tag) for tag in tags)


def test_consumer_tag_is_used_once_per_channel(raw_channel: RawClient) -> None:
    """A tag that is in use on its channel cannot be used again; that ends the connection (1.8.3.3.3)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="t1"))
    raw_channel.receive_method(spec.Basic.ConsumeOk)
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="t1"))
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - attempt to reuse consumer tag 't1'")
    assert (close.class_id, close.method_id) == (60, 20)


def test_same_consumer_tag_on_two_channels(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    """Tags are local to a channel (1.8.3.3.3)."""
    other = channel.connection.channel()
    Inbox(channel, queue, consumer_tag="same")
    Inbox(other, queue, consumer_tag="same")
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 2


def test_consuming_a_missing_queue_is_not_found(broker: Broker, channel: BlockingChannel) -> None:
    """A queue that is consumed exists (1.8.3.3.2)."""
    missing = broker.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '{broker.vhost}'"):
        Inbox(channel, missing)


def test_exclusive_consumer_is_alone(broker: Broker, connect: Connect) -> None:
    """A queue has an exclusive consumer or others, never both (1.8.3.3.6)."""
    connection = connect()
    queue = connection.channel().queue_declare(broker.name("queue"), exclusive=True).method.queue
    refusal = (403, f"ACCESS_REFUSED - queue '{queue}' in vhost '{broker.vhost}' in exclusive use")
    first = connection.channel()
    inbox = Inbox(first, queue, exclusive=True)
    with channel_closed(*refusal):
        Inbox(connection.channel(), queue)
    first.basic_cancel(inbox.tag)
    Inbox(first, queue)
    with channel_closed(*refusal):
        Inbox(connection.channel(), queue, exclusive=True)


def test_consumers_take_turns(channel: BlockingChannel, queue: str) -> None:
    """Messages go round among the consumers of a queue (3.1.4)."""
    first, second = Inbox(channel, queue, auto_ack=True), Inbox(channel, queue, auto_ack=True)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    settle(channel, queue)
    assert sorted(first.bodies + second.bodies) == [b"1", b"2", b"3", b"4"]
    assert len(first.bodies) == len(second.bodies) == 2


def test_without_acknowledgement_messages_are_gone_when_sent(channel: BlockingChannel, queue: str) -> None:
    """With no-ack a message is done with once it is sent (1.8.3.3.5)."""
    consuming = channel.connection.channel()
    inbox = Inbox(consuming, queue, auto_ack=True)
    publish(channel, queue, b"1", b"2")
    inbox.wait_for(2)
    consuming.close()
    assert settle(channel, queue) == 0


# ---------------------------------------------------------------------------------------------------- cancel


def test_nothing_is_delivered_after_cancel_ok(channel: BlockingChannel, queue: str) -> None:
    """A cancelled consumer gets nothing more (1.8.3.5)."""
    inbox = Inbox(channel, queue)
    publish(channel, queue, b"before")
    inbox.wait_for(1)
    channel.basic_cancel(inbox.tag)
    publish(channel, queue, b"after")
    settle(channel, queue)
    assert inbox.bodies == [b"before"]
    assert get_when_there(channel, queue).body == b"after"


def test_messages_of_a_cancelled_consumer_can_still_be_acknowledged(channel: BlockingChannel, queue: str) -> None:
    """What was delivered stays with the channel (1.8.3.5)."""
    inbox = Inbox(channel, queue)
    publish(channel, queue, b"1", b"2")
    inbox.wait_for(2)
    channel.basic_cancel(inbox.tag)
    assert settle(channel, queue) == 0
    channel.basic_ack(1)
    channel.basic_nack(2, requeue=True)
    assert get_when_there(channel, queue).body == b"2"
    assert settle(channel, queue) == 0


def test_cancelling_an_unknown_consumer_succeeds(raw_channel: RawClient) -> None:
    """What is not there is cancelled (1.8.3.5.2)."""
    raw_channel.send_method(1, spec.Basic.Cancel(consumer_tag="nobody"))
    assert raw_channel.receive_method(spec.Basic.CancelOk).consumer_tag == "nobody"


def test_consumer_is_told_when_its_queue_is_deleted(
    channel: BlockingChannel, other_channel: BlockingChannel, broker: Broker
) -> None:
    """A client that can be told is sent basic.cancel when its queue goes (capability consumer_cancel_notify)."""
    name = broker.name("queue")
    channel.queue_declare(name, auto_delete=True)
    cancelled: list[str] = []
    channel.add_on_cancel_callback(lambda method: cancelled.append(method.method.consumer_tag))
    inbox = Inbox(channel, name)
    other_channel.queue_delete(name)

    def is_told() -> bool:
        channel.connection.process_data_events(0.05)
        return cancelled == [inbox.tag]

    wait_until(is_told, 5.0, "basic.cancel")


def test_who_deletes_hears_of_its_own_consumer_after_delete_ok(raw_channel: RawClient, broker: Broker) -> None:
    """On the deleting channel itself delete-ok comes first, then the cancel."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="t"))
    raw_channel.receive_method(spec.Basic.ConsumeOk)
    raw_channel.send_method(1, spec.Queue.Delete(queue=queue))
    raw_channel.receive_method(spec.Queue.DeleteOk)
    cancel = raw_channel.receive_method(spec.Basic.Cancel)
    assert (cancel.consumer_tag, cancel.nowait) == ("t", True)


# ---------------------------------------------------------------------------------------------------- ack, nack, reject


def test_acknowledged_message_is_gone(channel: BlockingChannel, queue: str) -> None:
    """An acknowledged message does not come back when its channel closes (1.8.3.13)."""
    consuming = channel.connection.channel()
    inbox = Inbox(consuming, queue)
    publish(channel, queue, b"1", b"2")
    inbox.wait_for(2)
    consuming.basic_ack(1)
    consuming.close()
    assert get_when_there(channel, queue).body == b"2"
    assert settle(channel, queue) == 0


def test_multiple_acknowledges_all_up_to_the_tag(channel: BlockingChannel, queue: str) -> None:
    """With multiple set an ack is for its tag and all before (1.8.3.13.2)."""
    consuming = channel.connection.channel()
    inbox = Inbox(consuming, queue)
    publish(channel, queue, b"1", b"2", b"3")
    inbox.wait_for(3)
    consuming.basic_ack(2, multiple=True)
    consuming.close()
    assert get_when_there(channel, queue).body == b"3"
    assert settle(channel, queue) == 0


def test_tag_zero_with_multiple_acknowledges_everything(channel: BlockingChannel, queue: str) -> None:
    """Tag 0 with multiple means all that is outstanding, be it nothing (1.8.3.13.1)."""
    consuming = channel.connection.channel()
    consuming.basic_ack(0, multiple=True)
    inbox = Inbox(consuming, queue)
    publish(channel, queue, b"1", b"2")
    inbox.wait_for(2)
    consuming.basic_ack(0, multiple=True)
    consuming.close()
    assert settle(channel, queue) == 0


@pytest.mark.parametrize("how", ["ack", "nack", "reject"])
def test_unknown_delivery_tag_is_a_failed_precondition(broker: Broker, raw_channel: RawClient, how: str) -> None:
    """A tag that was never given out closes the channel (1.8.3.13.1)."""
    methods = {"ack": spec.Basic.Ack(5), "nack": spec.Basic.Nack(5), "reject": spec.Basic.Reject(5)}
    raw_channel.send_method(1, methods[how])
    close = raw_channel.receive_method(spec.Channel.Close)
    assert (close.reply_code, close.reply_text) == (406, "PRECONDITION_FAILED - unknown delivery tag 5")
    assert (close.class_id, close.method_id) == (60, {"ack": 80, "nack": 120, "reject": 90}[how])


def test_second_acknowledgement_is_a_failed_precondition(channel: BlockingChannel, queue: str) -> None:
    """A delivery is settled once (1.8.3.13.1)."""
    inbox = Inbox(channel, queue)
    publish(channel, queue, b"1")
    inbox.wait_for(1)
    channel.basic_ack(1)
    with channel_closed(406, "PRECONDITION_FAILED - unknown delivery tag 1"):
        channel.basic_ack(1)
        settle(channel, queue)


def test_rejected_message_is_gone(channel: BlockingChannel, queue: str) -> None:
    """basic.reject without requeue discards a message where no dead-letter exchange takes it (1.8.3.14)."""
    publish(channel, queue, b"1")
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_reject(method.delivery_tag, requeue=False)
    assert settle(channel, queue) == 0


def test_requeued_messages_return_to_their_places(channel: BlockingChannel, queue: str) -> None:
    """A requeued message stands where it stood, marked as redelivered (1.8.3.14.2)."""
    publish(channel, queue, b"0", b"1", b"2", b"3")
    tags = {}
    for _ in range(3):
        method, _, body = channel.basic_get(queue)
        assert method is not None
        tags[body] = method.delivery_tag
    channel.basic_nack(tags[b"1"], multiple=False, requeue=True)
    channel.basic_reject(tags[b"0"], requeue=True)
    received = [get_when_there(channel, queue) for _ in range(3)]
    assert [(message.body, message.method.redelivered) for message in received] == [(b"0", True), (b"1", True), (b"3", False)]


def test_nack_of_several_requeues_them_all(channel: BlockingChannel, queue: str) -> None:
    """basic.nack, an extension of RabbitMQ, takes multiple as basic.ack does (60/120)."""
    publish(channel, queue, b"1", b"2", b"3")
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(3)]
    channel.basic_nack(tags[1], multiple=True, requeue=True)
    channel.basic_ack(tags[2])
    assert [get_when_there(channel, queue).body for _ in range(2)] == [b"1", b"2"]
    assert settle(channel, queue) == 0


def test_requeued_message_goes_to_a_waiting_consumer(channel: BlockingChannel, queue: str) -> None:
    """What is requeued is delivered again at once when somebody can take it (1.8.3.14.2)."""
    inbox = Inbox(channel, queue)
    publish(channel, queue, b"1")
    inbox.wait_for(1)
    channel.basic_reject(1, requeue=True)
    again = inbox.wait_for(2)[1]
    assert (again.body, again.method.redelivered, again.method.delivery_tag) == (b"1", True, 2)


def test_lost_connection_gives_its_messages_back(broker: Broker, raw: RawClient, channel: BlockingChannel) -> None:
    """What a connection had not acknowledged when it broke is delivered to others, marked as redelivered (3.1.12)."""
    name = broker.name("queue")
    channel.queue_declare(name, auto_delete=True)
    publish(channel, name, b"1")
    raw.open(broker.vhost)
    raw.open_channel(1)
    raw.send_method(1, spec.Basic.Get(queue=name))
    raw.receive_method(spec.Basic.GetOk)
    raw.hang_up()
    received = get_when_there(channel, name)
    assert (received.body, received.method.redelivered) == (b"1", True)
    channel.queue_delete(name)


# ---------------------------------------------------------------------------------------------------- recover


def test_recover_requeues_what_is_not_acknowledged(channel: BlockingChannel, queue: str) -> None:
    """basic.recover with requeue gives all that the channel holds back to its queues (1.8.3.16)."""
    publish(channel, queue, b"1", b"2")
    for _ in range(2):
        channel.basic_get(queue)
    channel.basic_recover(requeue=True)
    received = [get_when_there(channel, queue) for _ in range(2)]
    assert [(message.body, message.method.redelivered) for message in received] == [(b"1", True), (b"2", True)]


def test_recover_without_requeue_is_not_implemented(connect: Connect) -> None:
    """basic.recover to the same consumer ends the connection, as in RabbitMQ."""
    with connection_closed(540, "NOT_IMPLEMENTED - requeue=false"):
        connect().channel().basic_recover(requeue=False)


# ---------------------------------------------------------------------------------------------------- bodies


def test_deliveries_keep_their_contents_apart(raw_channel: RawClient) -> None:
    """Each basic.deliver is followed by its own header and body (4.2.6)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Consume(queue=queue, consumer_tag="t", no_ack=True))
    raw_channel.receive_method(spec.Basic.ConsumeOk)
    bodies = [b"one", b"", b"three" * 50_000]
    for body in bodies:
        raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
        raw_channel.send(frames.Header(1, len(body), spec.BasicProperties()).marshal())
        for start in range(0, len(body), 100_000):
            raw_channel.send(frames.Body(1, body[start : start + 100_000]).marshal())
    for tag, body in enumerate(bodies, start=1):
        assert raw_channel.receive_method(spec.Basic.Deliver).delivery_tag == tag
        header = raw_channel.receive()
        assert header.body_size == len(body)
        received = b""
        while len(received) < len(body):
            received += raw_channel.receive().fragment
        assert received == body
