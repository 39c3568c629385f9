"""AMQP 0-9-1, class channel: opening, flow, closing by either side."""

from __future__ import annotations

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import Inbox, channel_closed, get_when_there
from tests.support.raw_client import RawClient


def test_second_open_is_a_channel_error(raw_channel: RawClient) -> None:
    """A channel that is open cannot be opened (1.5.2.1); that ends the connection."""
    raw_channel.send_method(1, spec.Channel.Open())
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (504, "CHANNEL_ERROR - second 'channel.open' seen")
    assert (close.class_id, close.method_id) == (20, 10)


def test_method_on_a_channel_not_opened_is_a_channel_error(broker: Broker, raw: RawClient) -> None:
    """A channel is opened before it is used (4.3); the close names the method that was not."""
    raw.open(broker.vhost)
    raw.send_method(7, spec.Queue.Declare(queue="any"))
    close = raw.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (504, "CHANNEL_ERROR - expected 'channel.open'")
    assert (close.class_id, close.method_id) == (50, 10)


def test_channel_max_counts_open_channels_not_numbers(broker: Broker, raw: RawClient) -> None:
    """With channel-max 2, channel 500 can be opened, but not a third one at the same time (1.4.2.5)."""
    raw.open(broker.vhost, channel_max=2)
    raw.open_channel(500)
    raw.open_channel(1)
    raw.send_method(2, spec.Channel.Open())
    close = raw.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (
        530,
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)",
    )
    assert (close.class_id, close.method_id) == (0, 0)


def test_number_of_a_closed_channel_can_be_used_again(broker: Broker, raw: RawClient) -> None:
    """Right after close-ok the number is free, and counts no more against channel-max (1.5.2.5)."""
    raw.open(broker.vhost, channel_max=1)
    for _ in range(3):
        raw.open_channel(1)
        raw.send_method(1, spec.Channel.Close(200, "", 0, 0))
        raw.receive_method(spec.Channel.CloseOk, channel=1)


def test_soft_error_closes_its_channel_only(broker: Broker, connect: Connect) -> None:
    """A soft error leaves the connection's other channels alone (1.2)."""
    connection = connect()
    failing, other = connection.channel(), connection.channel()
    missing = broker.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '{broker.vhost}'"):
        failing.queue_declare(missing, passive=True)
    assert failing.is_closed
    other.queue_declare(broker.name("other"), exclusive=True)


def test_between_close_and_close_ok_a_channel_ignores_what_comes(broker: Broker, raw_channel: RawClient) -> None:
    """After the broker's channel.close only close-ok means something on that channel (1.5.2.5)."""
    ignored, later = broker.name("ignored"), broker.name("later")
    raw_channel.send_method(1, spec.Queue.Declare(queue=broker.name("missing"), passive=True))
    close = raw_channel.receive_method(spec.Channel.Close, channel=1)
    assert (close.class_id, close.method_id) == (50, 10)
    raw_channel.send_method(1, spec.Queue.Declare(queue=ignored, exclusive=True))
    raw_channel.send_method(1, spec.Channel.CloseOk())
    raw_channel.open_channel(1)
    raw_channel.send_method(1, spec.Queue.Declare(queue=later, exclusive=True))
    assert raw_channel.receive_method(spec.Queue.DeclareOk, channel=1).queue == later
    raw_channel.send_method(1, spec.Queue.Declare(queue=ignored, passive=True))
    assert raw_channel.receive_method(spec.Channel.Close, channel=1).reply_code == 404


def test_closes_that_cross_are_both_answered(broker: Broker, raw_channel: RawClient) -> None:
    """A client that closes while the broker does gets its close-ok, and owes one (1.5.2.5)."""
    raw_channel.send_method(1, spec.Queue.Declare(queue=broker.name("missing"), passive=True))
    raw_channel.send_method(1, spec.Channel.Close(200, "", 0, 0))
    raw_channel.receive_method(spec.Channel.Close, channel=1)
    raw_channel.receive_method(spec.Channel.CloseOk, channel=1)
    raw_channel.send_method(1, spec.Channel.CloseOk())
    raw_channel.open_channel(1)


def test_flow_on_is_confirmed(raw_channel: RawClient) -> None:
    """channel.flow with active set changes nothing and is answered (1.5.2.3)."""
    raw_channel.send_method(1, spec.Channel.Flow(active=True))
    assert raw_channel.receive_method(spec.Channel.FlowOk, channel=1).active is True


def test_flow_off_is_not_implemented(raw_channel: RawClient) -> None:
    """A client cannot stop deliveries with channel.flow; basic.qos is for that."""
    raw_channel.send_method(1, spec.Channel.Flow(active=False))
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (540, "NOT_IMPLEMENTED - active=false")
    assert (close.class_id, close.method_id) == (20, 20)


def test_access_request_is_granted(raw_channel: RawClient) -> None:
    """access.request, gone from 0-9-1 but sent by old clients, is answered with ticket 1."""
    raw_channel.send_method(1, spec.Access.Request(realm="/data"))
    assert raw_channel.receive_method(spec.Access.RequestOk, channel=1).ticket == 1


def test_closing_a_channel_gives_its_unacknowledged_messages_back(connect: Connect, channel: BlockingChannel, queue: str) -> None:
    """What a channel had not acknowledged is ready again, in its place and marked redelivered, before close-ok (3.1.12)."""
    for body in (b"first", b"second", b"third"):
        channel.basic_publish("", queue, body)
    taker = channel.connection.channel()
    assert [get_when_there_unacknowledged(taker, queue) for _ in range(2)] == [b"first", b"second"]
    taker.close()
    received = [get_when_there(channel, queue) for _ in range(3)]
    assert [message.body for message in received] == [b"first", b"second", b"third"]
    assert [message.method.redelivered for message in received] == [True, True, False]


def test_closing_a_channel_ends_its_consumers(channel: BlockingChannel, queue: str) -> None:
    """A consumer lives on its channel (1.8.3.3)."""
    consuming = channel.connection.channel()
    Inbox(consuming, queue)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1
    consuming.close()
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 0


def test_every_close_names_the_method_that_failed(broker: Broker, raw_channel: RawClient) -> None:
    """The class and method in channel.close are those of the failing method (1.5.2.5)."""
    raw_channel.send_method(1, spec.Exchange.Declare(exchange=broker.name("missing"), passive=True))
    close = raw_channel.receive_method(spec.Channel.Close, channel=1)
    assert (close.class_id, close.method_id) == (40, 10)


@pytest.mark.parametrize("unexpected", [spec.Queue.DeclareOk("x", 0, 0), spec.Channel.OpenOk()], ids=["declare-ok", "open-ok"])
def test_method_only_a_broker_sends_is_an_error(raw_channel: RawClient, unexpected: spec.Channel.OpenOk) -> None:
    """A client that sends a broker's method makes a mistake that ends the connection (4.6)."""
    raw_channel.send_method(1, unexpected)
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (503, "COMMAND_INVALID - unimplemented method")


def get_when_there_unacknowledged(channel: BlockingChannel, queue: str) -> bytes:
    """Take one message without acknowledging it."""
    method, _, body = channel.basic_get(queue, auto_ack=False)
    assert method is not None
    return bytes(body)
