"""RabbitMQ's extension class confirm: the broker says when it has taken responsibility for a message."""

from __future__ import annotations

from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.brokers import Broker
from tests.support.pika_client import get_when_there
from tests.support.raw_client import RawClient


def _declare(client: RawClient, **flags: bool) -> str:
    client.send_method(1, spec.Queue.Declare(exclusive=True, **flags))
    return str(client.receive_method(spec.Queue.DeclareOk).queue)


def _select(client: RawClient) -> None:
    client.send_method(1, spec.Confirm.Select())
    client.receive_method(spec.Confirm.SelectOk)


def _publish(client: RawClient, queue: str, count: int, *, delivery_mode: int = 1) -> None:
    for _ in range(count):
        client.send_method(1, spec.Basic.Publish(routing_key=queue))
        client.send_content(1, b"body", spec.BasicProperties(delivery_mode=delivery_mode))


def _confirmed(client: RawClient, count: int) -> set[int]:
    """Read acks until that many publishes are confirmed; a tag confirmed twice fails."""
    waiting = set(range(1, count + 1))
    confirmed: set[int] = set()
    while len(confirmed) < count:
        ack = client.receive_method(spec.Basic.Ack, channel=1)
        tags = {tag for tag in waiting if tag <= ack.delivery_tag} if ack.multiple else {ack.delivery_tag}
        assert tags <= waiting
        waiting -= tags
        confirmed |= tags
    return confirmed


def test_publishes_are_counted_from_confirm_select(raw_channel: RawClient) -> None:
    """The first publish after confirm.select has the number 1; those before are not confirmed."""
    queue = _declare(raw_channel)
    _publish(raw_channel, queue, 3)
    _select(raw_channel)
    _publish(raw_channel, queue, 1)
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 1


def test_every_publish_is_confirmed_once(raw_channel: RawClient) -> None:
    """Acks may come for several at once (multiple), and each number is confirmed exactly once."""
    queue = _declare(raw_channel)
    _select(raw_channel)
    _publish(raw_channel, queue, 200)
    assert len(_confirmed(raw_channel, 200)) == 200


def test_select_twice_changes_nothing(raw_channel: RawClient) -> None:
    """confirm.select on a channel in confirm mode goes on counting."""
    queue = _declare(raw_channel)
    _select(raw_channel)
    _publish(raw_channel, queue, 1)
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 1
    _select(raw_channel)
    _publish(raw_channel, queue, 1)
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 2


def test_persistent_message_is_confirmed(broker: Broker, raw_channel: RawClient) -> None:
    """A persistent message on a durable queue is confirmed once it is safe."""
    name = broker.name("durable")
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, durable=True))
    raw_channel.receive_method(spec.Queue.DeclareOk)
    _select(raw_channel)
    _publish(raw_channel, name, 20, delivery_mode=2)
    assert len(_confirmed(raw_channel, 20)) == 20
    raw_channel.send_method(1, spec.Queue.Delete(queue=name))
    while not isinstance(method := raw_channel.receive().method, spec.Queue.DeleteOk):
        raise AssertionError(method)
    assert method.message_count == 20


def test_unroutable_message_is_confirmed(broker: Broker, raw_channel: RawClient) -> None:
    """A message no queue takes is dealt with, so it is confirmed."""
    _select(raw_channel)
    _publish(raw_channel, broker.name("nowhere"), 2, delivery_mode=2)
    assert _confirmed(raw_channel, 2) == {1, 2}


def test_confirms_of_one_channel_are_not_anothers(raw_channel: RawClient) -> None:
    """Confirm mode and its count belong to a channel."""
    queue = _declare(raw_channel)
    raw_channel.open_channel(2)
    _select(raw_channel)
    raw_channel.send_method(2, spec.Basic.Publish(routing_key=queue))
    raw_channel.send_content(2, b"body")
    _publish(raw_channel, queue, 1)
    assert raw_channel.receive_method(spec.Basic.Ack, channel=1).delivery_tag == 1
    raw_channel.send_method(2, spec.Queue.Purge(queue=queue))
    assert raw_channel.receive_method(spec.Queue.PurgeOk, channel=2).message_count == 2


def test_message_that_is_consumed_at_once_is_confirmed_too(raw_channel: RawClient) -> None:
    """Delivered and acknowledged before it reached a disk, a message is confirmed nevertheless."""
    queue = _declare(raw_channel)
    raw_channel.open_channel(2)
    raw_channel.send_method(2, spec.Basic.Consume(queue=queue, consumer_tag="t", no_ack=True))
    raw_channel.receive_method(spec.Basic.ConsumeOk, channel=2)
    _select(raw_channel)
    _publish(raw_channel, queue, 1, delivery_mode=2)
    found: set[str] = set()
    while found != {"Basic.Ack", "Basic.Deliver"}:
        frame = raw_channel.receive()
        if hasattr(frame, "method"):
            found.add(frame.method.NAME)


def test_confirmed_message_can_be_taken(channel: BlockingChannel, queue: str) -> None:
    """What is confirmed is in its queue."""
    channel.confirm_delivery()
    for number in range(5):
        channel.basic_publish("", queue, str(number).encode())
    assert channel.queue_declare(queue, passive=True).method.message_count == 5
    assert get_when_there(channel, queue).body == b"0"


def test_select_without_wait_has_no_answer(raw_channel: RawClient) -> None:
    """With no-wait the mode is on without select-ok."""
    queue = _declare(raw_channel)
    raw_channel.send_method(1, spec.Confirm.Select(nowait=True))
    _publish(raw_channel, queue, 1)
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 1
