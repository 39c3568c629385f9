"""Optional arguments: what is valid, what is equivalent, and RabbitMQ's words for what is not."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from leveret.amqp.tables import FieldValue, Table
from leveret.broker.core.arguments import (
    QueueArguments,
    check_equivalent_argument,
    check_equivalent_property,
    consumer_priority,
    field_type,
)
from leveret.errors import PreconditionFailed


def test_no_arguments_ask_for_nothing() -> None:
    """A queue without arguments has no limits."""
    assert QueueArguments.parse({}, queue="q", vhost="/") == QueueArguments()


def test_known_arguments_are_read() -> None:
    """Times are milliseconds, unknown arguments are nobody's business."""
    arguments: Table = {
        "x-message-ttl": 0,
        "x-expires": 1,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
        "x-max-priority": 10,
        "x-queue-type": "classic",
        "x-of-nobody": [1, 2],
    }
    assert QueueArguments.parse(arguments, queue="q", vhost="/") == QueueArguments(
        message_ttl_ms=0, expires_ms=1, dead_letter_exchange="", dead_letter_routing_key="dead", priority_max=10
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("x-message-ttl", -1, "{value_negative,-1}"),
        ("x-message-ttl", "1000", '"expected integer, got longstr"'),
        ("x-message-ttl", True, '"expected integer, got bool"'),
        ("x-message-ttl", 1.5, '"expected integer, got double"'),
        ("x-message-ttl", None, '"expected integer, got void"'),
        ("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", -5, "{value_negative,-5}"),
        ("x-expires", 315_360_000_001, "{value_too_large,315360000001}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-max-priority", -1, "{value_negative,-1}"),
        ("x-dead-letter-routing-key", "key", "routing_key_but_no_dlx_defined"),
        ("x-queue-type", "foo", "\"unsupported queue type 'foo'\""),
        ("x-queue-type", "quorum", "\"unsupported queue type 'quorum'\""),
        ("x-queue-type", 1, "{unacceptable_type,signedint}"),
        ("x-overflow", 5, "{unacceptable_type,signedint}"),
        ("x-overflow", "drop-tail", "invalid_overflow"),
        ("x-queue-mode", "eager", "\"unsupported queue mode 'eager'\""),
        ("x-queue-version", "a", '"expected integer, got longstr"'),
        ("x-queue-version", 3, "\"unsupported queue version '3'\""),
        ("x-single-active-consumer", "yes", "{unacceptable_type,longstr}"),
        ("x-single-active-consumer", True, "not available on this broker yet"),
    ],
)
def test_wrong_argument_is_a_failed_precondition(name: str, value: FieldValue, why: str) -> None:
    """The text names the argument, the queue and what is wrong, as RabbitMQ's does."""
    with pytest.raises(PreconditionFailed) as caught:
        QueueArguments.parse({name: value}, queue="q", vhost="/v")
    assert caught.value.reply_text == f"PRECONDITION_FAILED - invalid arg '{name}' for queue 'q' in vhost '/v': {why}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x-dead-letter-exchange": 5}, "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/v'"),
        (
            {"x-delivery-limit": 5},
            "invalid arg 'x-delivery-limit' for queue 'q' in vhost '/v' of queue type rabbit_classic_queue",
        ),
        (
            {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 5},
            "invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/v': {unacceptable_type,signedint}",
        ),
    ],
)
def test_some_wrong_arguments_have_words_of_their_own(arguments: Table, text: str) -> None:
    """Where RabbitMQ's texts differ from the rest, so do ours."""
    with pytest.raises(PreconditionFailed) as caught:
        QueueArguments.parse(arguments, queue="q", vhost="/v")
    assert caught.value.reply_text == f"PRECONDITION_FAILED - {text}"


def test_how_rabbitmq_keeps_messages_means_nothing_here() -> None:
    """Lazy queues and queue versions are accepted, and change nothing."""
    arguments: Table = {"x-queue-mode": "lazy", "x-queue-version": 2, "x-single-active-consumer": False}
    assert QueueArguments.parse(arguments, queue="q", vhost="/") == QueueArguments()


def test_ten_years_are_allowed() -> None:
    """The longest time to live is RabbitMQ's: ten years."""
    assert QueueArguments.parse({"x-message-ttl": 315_360_000_000}, queue="q", vhost="/").message_ttl_ms == 315_360_000_000


@pytest.mark.parametrize(
    ("received", "current", "text"),
    [
        (True, False, "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
        ("fanout", "direct", "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'fanout' but current is 'direct'"),
    ],
)
def test_other_property_is_not_equivalent(received: bool | str, current: bool | str, text: str) -> None:
    """A redeclaration with another property says what was received and what is there."""
    with pytest.raises(PreconditionFailed) as caught:
        check_equivalent_property("queue 'q'", "/", "durable", received, current)
    assert caught.value.reply_text == f"PRECONDITION_FAILED - {text}"
    check_equivalent_property("queue 'q'", "/", "durable", current, current)


@pytest.mark.parametrize(
    ("received", "current", "difference"),
    [
        ({}, {"a": 5}, "received none but current is the value '5' of type 'signedint'"),
        ({"a": 5}, {}, "received the value '5' of type 'signedint' but current is none"),
        ({"a": 5}, {"a": 6}, "received '5' but current is '6'"),
        ({"a": "x"}, {"a": "y"}, "received 'x' but current is 'y'"),
        ({"a": 1}, {"a": "1"}, "received '1' but current is '1'"),
        ({"a": True}, {"a": 1}, "received 'true' but current is '1'"),
        ({"a": True}, {}, "received the value 'true' of type 'bool' but current is none"),
        ({"a": b"\xff"}, {}, "received the value '\ufffd' of type 'binary' but current is none"),
    ],
)
def test_other_argument_is_not_equivalent(received: Table, current: Table, difference: str) -> None:
    """A redeclaration with another argument says both values; with its type where there is only one (RabbitMQ)."""
    with pytest.raises(PreconditionFailed) as caught:
        check_equivalent_argument("queue 'q'", "/", "a", received, current)
    assert caught.value.reply_text == f"PRECONDITION_FAILED - inequivalent arg 'a' for queue 'q' in vhost '/': {difference}"


@pytest.mark.parametrize(
    ("received", "current"),
    [({}, {}), ({"x-queue-type": "classic"}, {}), ({}, {"x-queue-type": "classic"}), ({"x-queue-type": "classic"},) * 2],
)
def test_no_queue_type_is_classic(received: Table, current: Table) -> None:
    """A queue declared without a type is equal to one declared classic (RabbitMQ 3.8 and later)."""
    check_equivalent_argument("queue 'q'", "/", "x-queue-type", received, current)


def test_a_void_argument_is_not_an_absent_one() -> None:
    """An argument that is there without a value differs from one that is not there."""
    with pytest.raises(PreconditionFailed):
        check_equivalent_argument("queue 'q'", "/", "a", {"a": None}, {})


@pytest.mark.parametrize(("arguments", "priority"), [({}, 0), ({"x-priority": 10}, 10), ({"x-priority": -3}, -3)])
def test_consumer_priority_is_any_integer(arguments: Table, priority: int) -> None:
    """x-priority may be negative and is 0 by default (RabbitMQ, consumer priorities)."""
    assert consumer_priority(arguments, queue="q", vhost="/") == priority


def test_wrong_consumer_priority_is_a_failed_precondition() -> None:
    """A consumer's priority is an integer."""
    with pytest.raises(PreconditionFailed) as caught:
        consumer_priority({"x-priority": "high"}, queue="q", vhost="/")
    assert caught.value.reply_text == (
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\""
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "bool"),
        (1, "signedint"),
        (1 << 40, "long"),
        ("a", "longstr"),
        (b"\xff", "binary"),
        (1.0, "double"),
        (Decimal(1), "decimal"),
        ([], "array"),
        ({}, "table"),
        (None, "void"),
        (datetime(2026, 1, 1, tzinfo=UTC), "timestamp"),
    ],
)
def test_types_have_rabbitmqs_names(value: FieldValue, name: str) -> None:
    """Clients see the names that RabbitMQ has for types."""
    assert field_type(value) == name
