"""AMQP 0-9-1, class exchange: declaring, deleting, binding, and how each type routes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import channel_closed, connection_closed, get_when_there
from tests.support.raw_client import RawClient


@pytest.fixture
def exchange(broker: Broker) -> str:
    """Make up a name."""
    return broker.name("exchange")


def _bound_queues(channel: BlockingChannel, exchange: str, routing_keys: Iterable[str]) -> dict[str, str]:
    """Declare one queue per routing key, bound with it; return the queue of each key."""
    queues = {}
    for routing_key in routing_keys:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, exchange, routing_key)
        queues[routing_key] = queue
    return queues


def _receivers(channel: BlockingChannel, exchange: str, routing_key: str, queues: dict[str, str]) -> list[str]:
    """Publish one message and return the keys of the queues it went to, once for each copy."""
    channel.confirm_delivery()
    channel.basic_publish(exchange, routing_key, b"")
    found = []
    for key, queue in queues.items():
        ready = channel.queue_purge(queue).method.message_count
        found += [key] * ready
    return found


# ---------------------------------------------------------------------------------------------------- declare


@pytest.mark.parametrize("name", ["amq.direct", "amq.fanout", "amq.topic"])
def test_standard_exchanges_exist(channel: BlockingChannel, name: str) -> None:
    """Each vhost has an exchange of each standard type from the start, durable (3.1.3.1)."""
    channel.exchange_declare(name, passive=True)
    channel.exchange_declare(name, exchange_type=name.removeprefix("amq."), durable=True)


@pytest.mark.parametrize("type_", ["direct", "fanout", "topic"])
def test_declared_exchange_exists(channel: BlockingChannel, exchange: str, type_: str) -> None:
    """exchange.declare makes an exchange; declaring it again as it is changes nothing (1.6.2.1)."""
    channel.exchange_declare(exchange, exchange_type=type_)
    channel.exchange_declare(exchange, exchange_type=type_)
    channel.exchange_declare(exchange, passive=True)


def test_passive_declare_of_a_missing_exchange_is_not_found(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """Passive declare asks whether an exchange exists (1.6.2.1.4)."""
    with channel_closed(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '{broker.vhost}'"):
        channel.exchange_declare(exchange, passive=True)


def test_passive_declare_looks_at_the_name_only(channel: BlockingChannel, exchange: str) -> None:
    """Type and flags of a passive declare are not compared (1.6.2.1.4)."""
    channel.exchange_declare(exchange, exchange_type="fanout", auto_delete=True)
    channel.exchange_declare(exchange, exchange_type="topic", passive=True)


def test_unknown_type_is_refused(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """An unknown type is 406 on the channel; before RabbitMQ 3.13 it was 503 on the connection."""
    if broker.version >= (3, 13):
        with channel_closed(406, "PRECONDITION_FAILED - unknown exchange type 'x-nope'"):
            channel.exchange_declare(exchange, exchange_type="x-nope")
    else:
        with connection_closed(503, "COMMAND_INVALID - unknown exchange type 'x-nope'"):
            channel.exchange_declare(exchange, exchange_type="x-nope")


@pytest.mark.parametrize(
    ("changed", "received", "current"),
    [
        ({"exchange_type": "fanout"}, "fanout", "direct"),
        ({"durable": True}, "true", "false"),
        ({"auto_delete": True}, "true", "false"),
        ({"internal": True}, "true", "false"),
    ],
    ids=["type", "durable", "auto_delete", "internal"],
)
def test_other_properties_are_a_failed_precondition(
    broker: Broker, channel: BlockingChannel, exchange: str, changed: dict[str, object], received: str, current: str
) -> None:
    """An exchange cannot be declared anew with another type or other flags (1.6.2.1, rule "equivalent")."""
    channel.exchange_declare(exchange, exchange_type="direct")
    argument = "type" if "exchange_type" in changed else next(iter(changed))
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange '{exchange}' in vhost '{broker.vhost}': "
        f"received '{received}' but current is '{current}'"
    )
    with channel_closed(406, text):
        channel.exchange_declare(exchange, **{"exchange_type": "direct", **changed})


def test_reserved_names_cannot_be_created(broker: Broker, channel: BlockingChannel) -> None:
    """Names that begin with ``amq.`` are the broker's (1.6.2.1.2)."""
    name = broker.name("amq.foo")
    with channel_closed(403, f"ACCESS_REFUSED - exchange name '{name}' contains reserved prefix 'amq.*'"):
        channel.exchange_declare(name)


def test_mismatch_on_a_standard_exchange_is_a_failed_precondition(broker: Broker, channel: BlockingChannel) -> None:
    """A standard exchange is compared like any other."""
    text = (
        f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '{broker.vhost}': "
        "received 'fanout' but current is 'direct'"
    )
    with channel_closed(406, text):
        channel.exchange_declare("amq.direct", exchange_type="fanout", durable=True)


def test_default_exchange_cannot_be_declared_deleted_or_bound(connect: Connect, queue: str) -> None:
    """The default exchange is there, and nothing but publishing is done with it (3.1.3.1)."""
    connection = connect()
    refusal = (403, "ACCESS_REFUSED - operation not permitted on the default exchange")
    with channel_closed(*refusal):
        connection.channel().exchange_declare("", exchange_type="direct", durable=True)
    with channel_closed(*refusal):
        connection.channel().exchange_delete("")
    with channel_closed(*refusal):
        connection.channel().exchange_bind("amq.direct", "", "key")
    own = connection.channel()
    own_queue = own.queue_declare("", exclusive=True).method.queue
    with channel_closed(*refusal):
        own.queue_bind(own_queue, "", "key")


# ---------------------------------------------------------------------------------------------------- delete


def test_deleted_exchange_is_gone(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """exchange.delete removes the exchange and its bindings (1.6.2.3)."""
    channel.exchange_declare(exchange)
    channel.exchange_delete(exchange)
    with channel_closed(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '{broker.vhost}'"):
        channel.exchange_declare(exchange, passive=True)


def test_deleting_a_missing_exchange_succeeds(channel: BlockingChannel, exchange: str) -> None:
    """What is not there is deleted."""
    channel.exchange_delete(exchange)


def test_exchange_in_use_is_kept_by_if_unused(broker: Broker, channel: BlockingChannel, exchange: str, queue: str) -> None:
    """With if-unused an exchange that has bindings is not deleted (1.6.2.3.3)."""
    channel.exchange_declare(exchange)
    channel.queue_bind(queue, exchange, "key")
    with channel_closed(406, f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '{broker.vhost}' in use"):
        channel.exchange_delete(exchange, if_unused=True)


def test_unused_exchange_is_deleted_by_if_unused(channel: BlockingChannel, exchange: str, queue: str) -> None:
    """An exchange whose bindings are gone is unused (1.6.2.3.3)."""
    channel.exchange_declare(exchange)
    channel.queue_bind(queue, exchange, "key")
    channel.queue_unbind(queue, exchange, "key")
    channel.exchange_delete(exchange, if_unused=True)


def test_standard_exchanges_cannot_be_deleted(broker: Broker, channel: BlockingChannel) -> None:
    """The standard exchanges stay (3.1.3.1)."""
    text = f"ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '{broker.vhost}' not allowed"
    with channel_closed(403, text):
        channel.exchange_delete("amq.direct")


def test_auto_delete_exchange_goes_with_its_last_binding(
    broker: Broker, channel: BlockingChannel, exchange: str, queue: str
) -> None:
    """An auto-delete exchange is deleted when the last binding from it is, and not before (1.6.2.1.6)."""
    channel.exchange_declare(exchange, auto_delete=True)
    channel.exchange_declare(exchange, passive=True)
    channel.queue_bind(queue, exchange, "one")
    channel.queue_bind(queue, exchange, "two")
    channel.queue_unbind(queue, exchange, "one")
    channel.exchange_declare(exchange, passive=True)
    channel.queue_unbind(queue, exchange, "two")
    with channel_closed(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '{broker.vhost}'"):
        channel.exchange_declare(exchange, passive=True)


def test_auto_delete_exchange_goes_with_its_last_queue(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """Deleting a queue deletes its bindings, and with the last one the auto-delete exchange (1.6.2.1.6)."""
    channel.exchange_declare(exchange, auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, exchange, "key")
    channel.queue_delete(queue)
    with channel_closed(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '{broker.vhost}'"):
        channel.exchange_declare(exchange, passive=True)


# ---------------------------------------------------------------------------------------------------- routing


def test_default_exchange_routes_to_the_queue_of_that_name(channel: BlockingChannel, queue: str) -> None:
    """Every queue is bound to the default exchange with its own name (3.1.3.1)."""
    channel.basic_publish("", queue, b"body")
    assert get_when_there(channel, queue).body == b"body"


def test_direct_exchange_routes_by_equal_keys(channel: BlockingChannel, exchange: str) -> None:
    """A direct exchange compares the routing key with the binding key (3.1.3.1)."""
    channel.exchange_declare(exchange, exchange_type="direct")
    queues = _bound_queues(channel, exchange, ["red", "green", "red.dark", ""])
    assert _receivers(channel, exchange, "red", queues) == ["red"]
    assert _receivers(channel, exchange, "", queues) == [""]
    assert _receivers(channel, exchange, "blue", queues) == []


def test_fanout_exchange_routes_to_all(channel: BlockingChannel, exchange: str) -> None:
    """A fanout exchange looks at no key (3.1.3.2)."""
    channel.exchange_declare(exchange, exchange_type="fanout")
    queues = _bound_queues(channel, exchange, ["one", "two", ""])
    assert _receivers(channel, exchange, "whatever", queues) == ["one", "two", ""]


@pytest.mark.parametrize(
    ("routing_key", "matching"),
    [
        ("stock.usd.nyse", ["stock.usd.nyse", "stock.*.nyse", "stock.#", "#", "*.*.*", "#.nyse", "stock.#.nyse", "#.#"]),
        ("stock.nyse", ["stock.#", "#", "#.nyse", "stock.#.nyse", "#.#"]),
        ("stock", ["stock.#", "#", "*", "#.#"]),
        ("", ["#", "", "#.#"]),
        ("stock..nyse", ["stock.*.nyse", "stock.#", "#", "*.*.*", "#.nyse", "stock.#.nyse", "#.#"]),
        ("a.b.c.d.nyse", ["#", "#.nyse", "#.#"]),
        ("STOCK", ["#", "*", "#.#"]),
        ("stock.*.nyse", ["stock.*.nyse", "stock.#", "#", "*.*.*", "#.nyse", "stock.#.nyse", "#.#"]),
    ],
)
def test_topic_exchange_routes_by_pattern(channel: BlockingChannel, exchange: str, routing_key: str, matching: list[str]) -> None:
    """Words are what dots part, the empty one too; ``*`` is one word, ``#`` any number of them (3.1.3.3)."""
    patterns = ["stock.usd.nyse", "stock.*.nyse", "stock.#", "#", "*", "*.*.*", "#.nyse", "stock.#.nyse", "", "#.#"]
    channel.exchange_declare(exchange, exchange_type="topic")
    queues = _bound_queues(channel, exchange, patterns)
    assert sorted(_receivers(channel, exchange, routing_key, queues)) == sorted(matching)


def test_queue_bound_twice_gets_one_copy(channel: BlockingChannel, exchange: str, queue: str) -> None:
    """However many bindings match, a queue receives a message once (3.1.2)."""
    channel.exchange_declare(exchange, exchange_type="topic")
    channel.queue_bind(queue, exchange, "#")
    channel.queue_bind(queue, exchange, "key.*")
    assert _receivers(channel, exchange, "key.word", {"queue": queue}) == ["queue"]


def test_deleted_binding_routes_no_more(channel: BlockingChannel, exchange: str) -> None:
    """queue.unbind removes the one binding with that key (1.7.2.5)."""
    channel.exchange_declare(exchange, exchange_type="direct")
    queues = _bound_queues(channel, exchange, ["red", "green"])
    channel.queue_bind(queues["red"], exchange, "dark red")
    channel.queue_unbind(queues["red"], exchange, "red")
    assert _receivers(channel, exchange, "red", queues) == []
    assert _receivers(channel, exchange, "dark red", queues) == ["red"]
    assert _receivers(channel, exchange, "green", queues) == ["green"]


def test_internal_exchange_takes_no_publish(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """An internal exchange is fed by bindings only (1.6.2.1.7)."""
    channel.exchange_declare(exchange, internal=True)
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '{broker.vhost}'"
    channel.confirm_delivery()
    with channel_closed(403, text):
        channel.basic_publish(exchange, "key", b"")


# ---------------------------------------------------------------------------------------------------- bindings of exchanges


def test_exchange_bound_to_an_exchange_passes_messages_on(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """exchange.bind makes one exchange a destination of another, the key kept (RabbitMQ's extension, 40/30)."""
    destination = broker.name("destination")
    channel.exchange_declare(exchange, exchange_type="topic")
    channel.exchange_declare(destination, exchange_type="direct", internal=True)
    queues = _bound_queues(channel, destination, ["log.error", "log.info"])
    channel.exchange_bind(destination, exchange, "log.*")
    assert _receivers(channel, exchange, "log.error", queues) == ["log.error"]
    channel.exchange_unbind(destination, exchange, "log.*")
    assert _receivers(channel, exchange, "log.error", queues) == []


def test_exchanges_bound_in_a_circle_deliver_once(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """A message passes each exchange once, and each queue gets one copy."""
    other = broker.name("other")
    for name in (exchange, other):
        channel.exchange_declare(name, exchange_type="fanout")
    channel.exchange_bind(exchange, other)
    channel.exchange_bind(other, exchange)
    queues = {**_bound_queues(channel, exchange, ["first"]), **_bound_queues(channel, other, ["second"])}
    assert _receivers(channel, exchange, "", queues) == ["first", "second"]


def test_binding_a_missing_exchange_is_not_found(broker: Broker, connect: Connect, exchange: str) -> None:
    """Both ends of a binding exist (40/30)."""
    missing = f"NOT_FOUND - no exchange '{exchange}' in vhost '{broker.vhost}'"
    connection = connect()
    with channel_closed(404, missing):
        connection.channel().exchange_bind(exchange, "amq.direct", "key")
    with channel_closed(404, missing):
        connection.channel().exchange_bind("amq.direct", exchange, "key")


def test_unbinding_what_is_not_bound_succeeds(channel: BlockingChannel, exchange: str, queue: str) -> None:
    """A binding that is not there is removed."""
    channel.exchange_declare(exchange)
    channel.queue_unbind(queue, exchange, "key")
    channel.exchange_unbind(exchange, "amq.direct", "key")


def test_unbind_ok_of_exchanges_has_method_51(raw_channel: RawClient) -> None:
    """exchange.unbind-ok is 40/51, not the next number after unbind."""
    raw_channel.send_method(1, spec.Exchange.Unbind(destination="amq.fanout", source="amq.direct", routing_key="key"))
    raw_channel.receive_method(spec.Exchange.UnbindOk)


# ---------------------------------------------------------------------------------------------------- alternate exchange


def test_alternate_exchange_takes_what_has_no_route(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """A message without a route goes to the alternate exchange, and counts as routed."""
    alternate = broker.name("alternate")
    channel.exchange_declare(alternate, exchange_type="fanout")
    channel.exchange_declare(exchange, exchange_type="direct", arguments={"alternate-exchange": alternate})
    queues = {**_bound_queues(channel, exchange, ["known"]), **_bound_queues(channel, alternate, ["others"])}
    assert _receivers(channel, exchange, "known", queues) == ["known"]
    assert _receivers(channel, exchange, "unknown", queues) == ["others"]
    channel.basic_publish(exchange, "unknown", b"", mandatory=True)


def test_another_alternate_exchange_is_a_failed_precondition(broker: Broker, channel: BlockingChannel, exchange: str) -> None:
    """The alternate exchange is a property of the exchange."""
    channel.exchange_declare(exchange)
    text = (
        f"PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{exchange}' in vhost '{broker.vhost}': "
        "received the value 'foo' of type 'longstr' but current is none"
    )
    with channel_closed(406, text):
        channel.exchange_declare(exchange, arguments={"alternate-exchange": "foo"})
