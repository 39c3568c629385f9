"""Routing by what is in a message's headers: the headers exchange, CC and BCC; and requests off the beaten track."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.brokers import Broker
from tests.support.pika_client import channel_closed, get_when_there

HEADERS = {"format": "pdf", "pages": 3, "x-kind": "report"}


# --------------------------------------------------------------------------------------------- headers exchange


@pytest.mark.parametrize("name", ["amq.headers", "amq.match"])
def test_headers_exchanges_exist(channel: BlockingChannel, name: str) -> None:
    """Each vhost has them from the start (3.1.3.4)."""
    channel.exchange_declare(name, exchange_type="headers", durable=True)


@pytest.mark.parametrize(
    ("arguments", "matches"),
    [
        ({"format": "pdf", "pages": 3}, True),
        ({"x-match": "all", "format": "pdf", "pages": 4}, False),
        ({"x-match": "all", "format": "pdf", "author": "me"}, False),
        ({"x-match": "any", "format": "pdf", "pages": 4}, True),
        ({"x-match": "any", "format": "text"}, False),
        ({"x-match": "all", "format": "pdf", "x-kind": "other"}, True),
        ({"x-match": "all-with-x", "format": "pdf", "x-kind": "other"}, False),
        ({"x-match": "all-with-x", "format": "pdf", "x-kind": "report"}, True),
        ({"x-match": "any", "format": "text", "x-kind": "report"}, False),
        ({"x-match": "any-with-x", "format": "text", "x-kind": "report"}, True),
        ({"x-match": "all", "format": None}, True),
        ({"x-match": "all", "author": None}, False),
        ({"pages": "3"}, False),
        ({"pages": True}, False),
        ({"x-match": "all"}, True),
        ({"x-match": "any"}, False),
    ],
)
def test_binding_arguments_are_matched_with_the_headers(
    broker: Broker, channel: BlockingChannel, queue: str, arguments: dict[str, Any], matches: bool
) -> None:
    """All or any of the arguments must be among the headers, those beginning with x- only where asked (3.1.3.4)."""
    if "with-x" in arguments.get("x-match", "") and broker.kind == "rabbitmq" and broker.version < (3, 10):
        pytest.skip("RabbitMQ has these modes since 3.10")
    exchange = broker.name("headers")
    channel.exchange_declare(exchange, exchange_type="headers", auto_delete=True)
    channel.queue_bind(queue, exchange, "ignored", arguments)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "another", b"", spec.BasicProperties(headers=HEADERS))
    assert channel.queue_purge(queue).method.message_count == matches


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("some", 'Invalid x-match field value <<"some">>; expected all, any, all-with-x, or any-with-x'),
        (1, "Invalid x-match field type signedint (value 1); expected longstr"),
        (True, "Invalid x-match field type bool (value true); expected longstr"),
    ],
)
def test_wrong_x_match_is_a_failed_precondition(channel: BlockingChannel, queue: str, value: object, text: str) -> None:
    """A binding that could never be understood is not made."""
    with channel_closed(406, f"PRECONDITION_FAILED - {text}"):
        channel.queue_bind(queue, "amq.headers", "", {"x-match": value})


# -------------------------------------------------------------------------------------------------- CC and BCC


def test_copies_go_to_the_queues_of_cc_and_bcc(channel: BlockingChannel, broker: Broker) -> None:
    """Each queue gets one copy, under the message's own key; nobody sees BCC (sender-selected distribution)."""
    to, cc, bcc = (broker.name(stem) for stem in ("to", "cc", "bcc"))
    for name in (to, cc, bcc):
        channel.queue_declare(name, exclusive=True)
    headers = {"CC": [cc, to, "nowhere"], "BCC": [bcc], "mine": 1}
    channel.basic_publish("", to, b"body", spec.BasicProperties(headers=headers))
    for name in (to, cc, bcc):
        message = get_when_there(channel, name)
        assert (message.method.routing_key, message.body) == (to, b"body")
        assert message.properties.headers == {"CC": [cc, to, "nowhere"], "mine": 1}
        assert channel.queue_purge(name).method.message_count == 0


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_copies_are_an_array(channel: BlockingChannel, queue: str, name: str) -> None:
    """CC and BCC are arrays of routing keys."""
    channel.confirm_delivery()
    with channel_closed(406, f'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"{name}",longstr}}'):
        channel.basic_publish("", queue, b"", spec.BasicProperties(headers={name: queue}))


@pytest.mark.parametrize("own_key", [True, False], ids=["own key", "queue's key"])
def test_dead_letters_keep_their_copies_with_their_key(channel: BlockingChannel, broker: Broker, own_key: bool) -> None:
    """Dead-lettered under its own key a message keeps CC, under the queue's key it does not (RabbitMQ, dlx)."""
    exchange, queue, letters, copies = (broker.name(stem) for stem in ("dlx", "queue", "letters", "copies"))
    channel.exchange_declare(exchange, auto_delete=True)
    for name, key in [(letters, queue if own_key else "fixed"), (copies, "copy")]:
        channel.queue_declare(name, exclusive=True)
        channel.queue_bind(name, exchange, key)
    arguments = {"x-dead-letter-exchange": exchange} | ({} if own_key else {"x-dead-letter-routing-key": "fixed"})
    channel.queue_declare(queue, exclusive=True, arguments=arguments)
    channel.basic_publish("", queue, b"", spec.BasicProperties(headers={"CC": ["copy"]}))
    method, _, _ = channel.basic_get(queue)
    assert method is not None
    channel.basic_nack(method.delivery_tag, requeue=False)
    letter = get_when_there(channel, letters)
    assert ("CC" in letter.properties.headers) is own_key
    assert letter.properties.headers["x-death"][0]["routing-keys"] == [queue, "copy"]
    if own_key:
        get_when_there(channel, copies)
    assert channel.queue_purge(copies).method.message_count == 0


# ------------------------------------------------------------------------------------------ off the beaten track


@pytest.mark.parametrize(
    "unbind",
    [
        lambda channel, queue: channel.queue_unbind(queue, "missing.exchange", "key"),
        lambda channel, queue: channel.queue_unbind("missing.queue", "amq.direct", "key"),
        lambda channel, queue: channel.exchange_unbind("amq.direct", "missing.exchange", "key"),
        lambda channel, queue: channel.exchange_unbind("missing.exchange", "amq.direct", "key"),
    ],
)
def test_unbinding_from_what_does_not_exist_succeeds(
    channel: BlockingChannel, queue: str, unbind: Callable[[BlockingChannel, str], object]
) -> None:
    """The binding is not there afterwards, which is what was asked for."""
    unbind(channel, queue)
    assert channel.is_open


def test_default_exchange_cannot_even_be_looked_at(channel: BlockingChannel) -> None:
    """A passive declare of the default exchange is refused as well."""
    with channel_closed(403, "ACCESS_REFUSED - operation not permitted on the default exchange"):
        channel.exchange_declare("", passive=True)


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("x-overflow", 5, "{unacceptable_type,signedint}"),
        ("x-queue-type", 5, "{unacceptable_type,signedint}"),
        ("x-queue-mode", "eager", "\"unsupported queue mode 'eager'\""),
        ("x-queue-version", "a", '"expected integer, got longstr"'),
        ("x-single-active-consumer", "yes", "{unacceptable_type,longstr}"),
    ],
)
def test_wrong_value_of_a_rarer_argument(
    broker: Broker, channel: BlockingChannel, argument: str, value: object, reason: str
) -> None:
    """The message names the argument and what is wrong with it, in RabbitMQ's words."""
    name = broker.name("queue")
    text = f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '{broker.vhost}': {reason}"
    with channel_closed(406, text):
        channel.queue_declare(name, exclusive=True, arguments={argument: value})


def test_exchange_arguments_name_exchanges(broker: Broker, channel: BlockingChannel) -> None:
    """The alternate exchange is a name."""
    name = broker.name("exchange")
    text = f"invalid type 'signedint' for arg 'alternate-exchange' in exchange '{name}' in vhost '{broker.vhost}'"
    with channel_closed(406, f"PRECONDITION_FAILED - {text}"):
        channel.exchange_declare(name, arguments={"alternate-exchange": 5})


def test_dead_letter_exchange_is_a_name(broker: Broker, channel: BlockingChannel) -> None:
    """So is the dead-letter exchange."""
    name = broker.name("queue")
    text = f"invalid type 'bool' for arg 'x-dead-letter-exchange' in queue '{name}' in vhost '{broker.vhost}'"
    with channel_closed(406, f"PRECONDITION_FAILED - {text}"):
        channel.queue_declare(name, exclusive=True, arguments={"x-dead-letter-exchange": True})


def test_returned_message_is_no_longer_of_interest_after_a_close(channel: BlockingChannel, broker: Broker) -> None:
    """A return that crosses the client's channel.close disturbs neither."""
    for _ in range(20):
        closing = channel.connection.channel()
        closing.basic_publish("", broker.name("nowhere"), b"", mandatory=True)
        closing.close()
    assert channel.is_open
