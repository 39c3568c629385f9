"""AMQP 0-9-1, class basic: publishing, and what comes back of it."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import UnroutableError

from tests.support.brokers import Broker
from tests.support.pika_client import channel_closed, get_when_there
from tests.support.raw_client import RawClient


def test_body_and_properties_arrive_as_they_were_sent(channel: BlockingChannel, queue: str) -> None:
    """A broker changes nothing of a content (4.2.6, 1.8)."""
    properties = spec.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "text": "märz",
            "number": 1,
            "large": 2**40,
            "yes": True,
            "none": None,
            "list": [1, "two", {"three": 3}],
            "decimal": Decimal("3.14"),
            "when": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        },
        delivery_mode=2,
        priority=3,
        correlation_id="correlation",
        reply_to="reply",
        expiration="60000",
        message_id="message",
        timestamp=1_700_000_000,
        type="type",
        user_id="guest",
        app_id="app",
        cluster_id="cluster",
    )
    body = bytes(range(256)) * 8
    channel.basic_publish("", queue, body, properties)
    received = get_when_there(channel, queue)
    assert received.body == body
    assert received.properties == properties


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000], ids=str)
def test_body_of_any_size(channel: BlockingChannel, queue: str, size: int) -> None:
    """A body is cut into as many frames as it takes (4.2.6.2)."""
    body = b"0123456789abcdef" * (size // 16 + 1)
    channel.basic_publish("", queue, body[:size])
    assert get_when_there(channel, queue).body == body[:size]


def test_messages_of_one_channel_keep_their_order(channel: BlockingChannel, queue: str) -> None:
    """What goes through one channel, one exchange and one queue arrives in order (4.7)."""
    bodies = [str(number).encode() for number in range(300)]
    for body in bodies:
        channel.basic_publish("", queue, body)
    assert [get_when_there(channel, queue).body for _ in bodies] == bodies


def test_publish_to_a_missing_exchange_closes_the_channel(broker: Broker, raw_channel: RawClient) -> None:
    """An exchange that is published to exists (1.8.3.7.2)."""
    missing = broker.name("missing")
    raw_channel.send_method(1, spec.Basic.Publish(exchange=missing, routing_key="key"))
    raw_channel.send_content(1, b"body")
    close = raw_channel.receive_method(spec.Channel.Close)
    assert (close.reply_code, close.reply_text) == (404, f"NOT_FOUND - no exchange '{missing}' in vhost '{broker.vhost}'")
    assert (close.class_id, close.method_id) == (60, 40)


def test_unroutable_message_is_dropped_without_mandatory(channel: BlockingChannel, broker: Broker) -> None:
    """Without the mandatory flag a message that no queue takes is dropped silently, and confirmed (1.8.3.7.4)."""
    channel.confirm_delivery()
    channel.basic_publish("", broker.name("nowhere"), b"")


def test_unroutable_mandatory_message_is_returned_before_its_confirm(broker: Broker, raw_channel: RawClient) -> None:
    """With the mandatory flag it comes back whole as basic.return 312, and only then the confirm (1.8.3.7.4)."""
    raw_channel.send_method(1, spec.Confirm.Select())
    raw_channel.receive_method(spec.Confirm.SelectOk)
    nowhere = broker.name("nowhere")
    raw_channel.send_method(1, spec.Basic.Publish(exchange="amq.topic", routing_key=nowhere, mandatory=True))
    raw_channel.send_content(1, b"body", spec.BasicProperties(message_id="7", headers={"a": 1}))
    returned = raw_channel.receive_method(spec.Basic.Return)
    assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
    assert (returned.exchange, returned.routing_key) == ("amq.topic", nowhere)
    header = raw_channel.receive()
    assert header.body_size == 4
    assert (header.properties.message_id, header.properties.headers) == ("7", {"a": 1})
    assert raw_channel.receive().fragment == b"body"
    assert raw_channel.receive_method(spec.Basic.Ack).delivery_tag == 1


def test_mandatory_message_without_confirms_is_returned_too(broker: Broker, channel: BlockingChannel) -> None:
    """basic.return does not depend on confirm mode (1.8.3.8)."""
    returned: list[tuple[int, bytes]] = []
    channel.add_on_return_callback(lambda _channel, method, _properties, body: returned.append((method.reply_code, body)))
    channel.basic_publish("", broker.name("nowhere"), b"body", mandatory=True)
    channel.queue_declare("", exclusive=True)  # answered after everything before it
    channel.connection.process_data_events(0)
    assert returned == [(312, b"body")]


def test_routable_mandatory_message_is_delivered(channel: BlockingChannel, queue: str) -> None:
    """The mandatory flag changes nothing for a message that finds a queue (1.8.3.7.4)."""
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"body", mandatory=True)
    assert get_when_there(channel, queue).body == b"body"
    with pytest.raises(UnroutableError):
        channel.basic_publish("", f"{queue}.not", b"body", mandatory=True)


def test_immediate_is_not_implemented(raw_channel: RawClient) -> None:
    """The immediate flag ends the connection, as in RabbitMQ since 3.0."""
    raw_channel.send_method(1, spec.Basic.Publish(routing_key="any", immediate=True))
    raw_channel.send_content(1, b"body")
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (540, "NOT_IMPLEMENTED - immediate=true")
    assert (close.class_id, close.method_id) == (60, 40)


def test_user_id_is_the_one_that_logged_in(channel: BlockingChannel, queue: str) -> None:
    """The property user-id is the sender's login, or absent."""
    channel.confirm_delivery()
    text = "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'"
    with channel_closed(406, text):
        channel.basic_publish("", queue, b"", spec.BasicProperties(user_id="bob"))


@pytest.mark.parametrize(
    ("expiration", "reason"),
    [("abc", "no_integer"), ("-1", "{value_negative,-1}"), ("", "no_integer"), ("10s", '{leftover_string,"s"}')],
)
def test_expiration_is_a_number_of_milliseconds(channel: BlockingChannel, queue: str, expiration: str, reason: str) -> None:
    """The property expiration is a string of digits."""
    channel.confirm_delivery()
    with channel_closed(406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': {reason}"):
        channel.basic_publish("", queue, b"", spec.BasicProperties(expiration=expiration))


def test_error_in_a_publish_leaves_the_messages_before_it(broker: Broker, channel: BlockingChannel, queue: str) -> None:
    """What was published before the message that closed the channel has arrived (4.7)."""
    publishing = channel.connection.channel()
    publishing.basic_publish("", queue, b"good")
    missing = broker.name("missing")
    with channel_closed(404, f"NOT_FOUND - no exchange '{missing}' in vhost '{broker.vhost}'"):
        publishing.basic_publish(missing, "", b"bad")
        publishing.queue_declare(queue, passive=True)
    assert get_when_there(channel, queue).body == b"good"
