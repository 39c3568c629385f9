"""AMQP 0-9-1, class basic: taking messages one by one."""

from __future__ import annotations

from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, channel_closed, publish, settle
from tests.support.raw_client import RawClient


def test_get_ok_counts_what_is_left(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """basic.get-ok tells how many messages are ready after this one (1.8.3.11)."""
    key = broker.name("key")
    channel.queue_bind(queue, "amq.direct", key)
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("amq.direct", key, b"body")
    method, _, body = channel.basic_get(queue)
    assert method is not None
    assert (method.delivery_tag, method.redelivered, method.message_count) == (1, False, 2)
    assert (method.exchange, method.routing_key, body) == ("amq.direct", key, b"body")


def test_empty_queue_answers_get_empty(raw_channel: RawClient) -> None:
    """A queue with nothing ready answers basic.get-empty (1.8.3.12)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Get(queue=queue))
    assert raw_channel.receive_method(spec.Basic.GetEmpty).cluster_id == ""


def test_getting_from_a_missing_queue_is_not_found(broker: Broker, channel: BlockingChannel) -> None:
    """A queue that is read exists (1.8.3.10.2)."""
    missing = broker.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '{broker.vhost}'"):
        channel.basic_get(missing)


def test_message_got_without_acknowledgement_is_gone(channel: BlockingChannel, queue: str) -> None:
    """With no-ack basic.get takes a message for good (1.8.3.10.3)."""
    taking = channel.connection.channel()
    publish(channel, queue, b"body")
    method, _, _ = taking.basic_get(queue, auto_ack=True)
    assert method is not None
    taking.close()
    assert settle(channel, queue) == 0


def test_message_got_is_not_delivered_to_others(channel: BlockingChannel, queue: str) -> None:
    """A message is with one channel at a time until it is settled (3.1.12)."""
    publish(channel, queue, b"body")
    channel.basic_get(queue)
    other = channel.connection.channel()
    inbox = Inbox(other, queue)
    settle(other, queue)
    assert inbox.bodies == []


def test_tags_of_get_and_deliver_are_one_series(channel: BlockingChannel, queue: str) -> None:
    """Delivery tags count the messages a channel has received, in whatever way, from 1 (1.1, delivery-tag)."""
    publish(channel, queue, b"1", b"2")
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    inbox = Inbox(channel, queue)
    inbox.wait_for(1)
    assert (method.delivery_tag, inbox.tags) == (1, [2])
    other = channel.connection.channel()
    channel.basic_cancel(inbox.tag)
    channel.basic_recover(requeue=True)
    method, _, _ = other.basic_get(queue)
    assert method is not None
    assert method.delivery_tag == 1


def test_prefetch_does_not_limit_get(channel: BlockingChannel, queue: str) -> None:
    """basic.qos is about consumers."""
    channel.basic_qos(prefetch_count=1)
    publish(channel, queue, b"", b"", b"")
    assert all(channel.basic_get(queue)[0] is not None for _ in range(3))


def test_exclusive_consumer_does_not_stop_get(channel: BlockingChannel, queue: str) -> None:
    """Exclusive consumption is about consumers."""
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, queue, exclusive=True)
    publish(channel, queue, b"", b"")
    settle(channel, queue)
    method, _, _ = channel.basic_get(queue)
    assert method is not None
