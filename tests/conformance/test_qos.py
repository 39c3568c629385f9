"""AMQP 0-9-1, basic.qos: how many messages a consumer may hold. Limits are per consumer (global=false, RabbitMQ's meaning)."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, connection_closed, publish, settle


def _fill(channel: BlockingChannel, queue: str, count: int) -> None:
    """Put messages named by their numbers into the queue, and wait until it has sent what it may send of them."""
    publish(channel, queue, *(b"%d" % number for number in range(count)))
    settle(channel, queue)


def test_consumer_holds_no_more_than_its_prefetch_count(channel: BlockingChannel, queue: str) -> None:
    """No more than prefetch-count deliveries are unacknowledged (1.8.3.1.2)."""
    channel.basic_qos(prefetch_count=2)
    inbox = Inbox(channel, queue)
    _fill(channel, queue, 5)
    assert inbox.bodies == [b"0", b"1"]


def test_each_acknowledgement_lets_one_more_through(channel: BlockingChannel, queue: str) -> None:
    """A settled delivery makes room for the next (1.8.3.1.2)."""
    channel.basic_qos(prefetch_count=2)
    inbox = Inbox(channel, queue)
    _fill(channel, queue, 6)
    channel.basic_ack(1)
    inbox.wait_for(3)
    settle(channel, queue)
    assert inbox.bodies == [b"0", b"1", b"2"]
    channel.basic_ack(3, multiple=True)
    inbox.wait_for(5)
    settle(channel, queue)
    assert inbox.bodies == [b"0", b"1", b"2", b"3", b"4"]
    channel.basic_reject(4, requeue=False)
    assert inbox.wait_for(6)[-1].body == b"5"


def test_prefetch_count_zero_is_no_limit(channel: BlockingChannel, queue: str) -> None:
    """Zero means that a consumer gets all there is (1.8.3.1.2)."""
    channel.basic_qos(prefetch_count=0)
    inbox = Inbox(channel, queue)
    _fill(channel, queue, 300)
    assert len(inbox.wait_for(300)) == 300


def test_each_consumer_of_a_channel_has_its_own_limit(channel: BlockingChannel, queue: str) -> None:
    """Without global the count is for each consumer, not for the channel (RabbitMQ's meaning of global)."""
    channel.basic_qos(prefetch_count=2)
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    _fill(channel, queue, 10)
    assert (len(first.bodies), len(second.bodies)) == (2, 2)


def test_qos_is_for_consumers_to_come(channel: BlockingChannel, queue: str) -> None:
    """A running consumer keeps the limit it was made with (RabbitMQ's meaning of global)."""
    channel.basic_qos(prefetch_count=1)
    first = Inbox(channel, queue)
    channel.basic_qos(prefetch_count=3)
    second = Inbox(channel, queue)
    _fill(channel, queue, 10)
    assert (len(first.bodies), len(second.bodies)) == (1, 3)


def test_limit_is_per_channel_object(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    """basic.qos on one channel says nothing about another (1.8.3.1)."""
    channel.basic_qos(prefetch_count=1)
    other = channel.connection.channel()
    limited, unlimited = Inbox(channel, queue), Inbox(other, queue)
    _fill(channel, queue, 6)
    settle(other, queue)
    assert (len(limited.bodies), len(unlimited.bodies)) == (1, 5)


def test_consumers_without_acknowledgement_have_no_limit(channel: BlockingChannel, queue: str) -> None:
    """The count is of unacknowledged messages, and with no-ack there are none (1.8.3.1.2)."""
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue, auto_ack=True)
    _fill(channel, queue, 5)
    assert len(inbox.wait_for(5)) == 5


def test_messages_beyond_the_limit_stay_ready(channel: BlockingChannel, queue: str) -> None:
    """What a consumer may not have yet is there for others, and is counted as ready (1.8.3.1.2)."""
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, queue)
    _fill(channel, queue, 3)
    assert settle(channel, queue) == 2
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert method is not None
    assert body == b"1"


def test_blocked_consumer_does_not_hold_up_another(channel: BlockingChannel, queue: str) -> None:
    """Turns pass over a consumer that is at its limit (3.1.4)."""
    channel.basic_qos(prefetch_count=1)
    blocked = Inbox(channel, queue)
    channel.basic_qos(prefetch_count=0)
    free = Inbox(channel, queue)
    _fill(channel, queue, 7)
    assert (len(blocked.bodies), len(free.bodies)) == (1, 6)


def test_higher_consumer_priority_is_served_first(channel: BlockingChannel, queue: str) -> None:
    """A consumer of lower x-priority gets messages only while all above it are at their limit."""
    channel.basic_qos(prefetch_count=2)
    low = Inbox(channel, queue)
    high = Inbox(channel, queue, arguments={"x-priority": 10})
    _fill(channel, queue, 3)
    assert (high.bodies, low.bodies) == ([b"0", b"1"], [b"2"])


def test_prefetch_size_is_not_implemented(connect: Connect) -> None:
    """A window in bytes ends the connection, as in RabbitMQ."""
    with connection_closed(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"):
        connect().channel().basic_qos(prefetch_size=10)


def test_cancelled_consumers_messages_free_its_place(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """Cancelling gives nothing back, and takes no room from a consumer that comes after."""
    channel.basic_qos(prefetch_count=2)
    gone = Inbox(channel, queue)
    _fill(channel, queue, 4)
    channel.basic_cancel(gone.tag)
    new = Inbox(channel, queue)
    settle(channel, queue)
    assert (gone.bodies, new.bodies) == ([b"0", b"1"], [b"2", b"3"])
