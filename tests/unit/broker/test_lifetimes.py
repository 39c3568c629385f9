"""What ends and when: queues, exchanges, bindings, consumers and messages; and what is told to whom."""

from __future__ import annotations

import pytest

from leveret.amqp.methods import basic, exchange, queue
from leveret.broker.core.broker import DEADLINES_MIN
from leveret.broker.core.journal import RemoveBinding, RemoveExchange, RemoveQueue
from leveret.errors import AccessRefused, NotFound, PreconditionFailed, ReplyError, ResourceLocked
from tests.support.core import CoreBroker, CoreClient, Sent


@pytest.fixture
def broker() -> CoreBroker:
    """An empty broker."""
    return CoreBroker()


@pytest.fixture
def client(broker: CoreBroker) -> CoreClient:
    """A client with channel 1 open."""
    return broker.connect()


def queues(broker: CoreBroker) -> set[str]:
    """Return the names of the queues."""
    return set(broker.core.vhosts["/"].queues)


def methods(client: CoreClient) -> list[str]:
    """Return the names of the methods that the broker has sent; nothing else came."""
    names = []
    for each in client.take():
        assert isinstance(each, Sent)
        names.append(each.method.NAME)
    return names


# ------------------------------------------------------------------------------------------------------- queues


def test_exclusive_queue_ends_with_its_session(broker: CoreBroker, client: CoreClient) -> None:
    """An exclusive queue belongs to one connection, and is gone with it; its bindings too (AMQP 0-9-1, queue.declare)."""
    client.declare("mine", exclusive=True)
    client.bind("mine", "amq.fanout")
    other = broker.connect()
    for method in (
        queue.Declare(queue="mine", passive=True),
        queue.Declare(queue="mine", exclusive=True),
        queue.Purge(queue="mine"),
        queue.Delete(queue="mine"),
        queue.Bind(queue="mine", exchange="amq.direct"),
        basic.Consume(queue="mine"),
        basic.Get(queue="mine"),
    ):
        with pytest.raises(ResourceLocked, match="cannot obtain exclusive access to locked queue 'mine' in vhost '/'") as caught:
            other.send(method)
        assert (caught.value.class_id, caught.value.method_id) == method.INDEX
    other.publish("mine")  # anybody may send to it
    assert client.count("mine") == 1
    client.close()
    assert queues(broker) == set()
    assert not broker.core.vhosts["/"].exchanges["amq.fanout"].bindings


def test_exclusive_queue_is_never_on_disk(broker: CoreBroker, client: CoreClient) -> None:
    """The durable flag of an exclusive queue means nothing (RabbitMQ): it could not survive its connection."""
    client.declare("mine", exclusive=True, durable=True)
    client.publish("mine")
    broker.turn()
    broker.commit()
    assert not any(batch.topology[1:] or batch.messages for batch in broker.written)  # topology[0] is the vhost


def test_auto_delete_queue_ends_with_its_last_consumer(broker: CoreBroker, client: CoreClient) -> None:
    """It goes when its last consumer goes, never before its first (AMQP 0-9-1, queue.declare); basic.get is none."""
    client.declare("q", auto_delete=True)
    client.get("q")
    client.consume("q", "a")
    client.consume("q", "b")
    client.call(basic.Cancel(consumer_tag="a"), basic.CancelOk)
    assert queues(broker) == {"q"}
    client.call(basic.Cancel(consumer_tag="b"), basic.CancelOk)
    assert queues(broker) == set()


@pytest.mark.parametrize("how", ["channel", "session"])
def test_auto_delete_queue_ends_with_its_consumers_channel(broker: CoreBroker, client: CoreClient, how: str) -> None:
    """A channel or connection that ends takes its consumers along; what they held is gone with the queue."""
    client.declare("q", auto_delete=True, durable=True)
    client.publish("q")
    client.consume("q")
    client.take()
    broker.commit()
    client.close_channel(1) if how == "channel" else client.close()
    assert queues(broker) == set()
    broker.turn()
    (batch,) = broker.unwritten
    assert (batch.topology, batch.removed) == ([RemoveQueue(1)], [])
    assert len(batch.released) == 1


def test_deleted_queue_drops_what_is_unacknowledged(broker: CoreBroker, client: CoreClient) -> None:
    """Deleting counts what is ready; deliveries still open can be settled in any way, and nothing comes of it."""
    client.declare("q", durable=True)
    client.publish_all("q", [b"0", b"1", b"2", b"3"])
    client.qos(3)
    client.consume("q")
    client.take()
    broker.commit()
    other = broker.connect()
    assert other.call(queue.Delete(queue="q"), queue.DeleteOk).message_count == 1
    (batch,) = broker.written[-1:]
    assert len(batch.released) == 4
    assert methods(client) == ["basic.cancel"]
    client.ack(1)
    client.nack(2, requeue=True)
    client.nack(3, requeue=False)
    broker.turn()
    assert broker.unwritten == []
    client.declare("q")
    assert client.count("q") == 0


def test_consumers_are_told_that_their_queue_is_gone(broker: CoreBroker, client: CoreClient) -> None:
    """basic.cancel, without an answer expected, to those whose client can take it (RabbitMQ, consumer-cancel)."""
    deaf = broker.connect(takes_cancel=False)
    client.declare("q")
    client.consume("q", "told")
    deaf.consume("q", "not told")
    broker.connect().call(queue.Delete(queue="q"), queue.DeleteOk)
    (told,) = client.take()
    assert isinstance(told, Sent)
    assert told.method == basic.Cancel(consumer_tag="told", no_wait=True)
    assert deaf.take() == []
    client.declare("q")
    client.consume("q", "told")  # the tag is free again


def test_who_deletes_hears_delete_ok_first(client: CoreClient) -> None:
    """On the deleting channel delete-ok comes before its own consumer's cancel (RabbitMQ)."""
    client.declare("q")
    client.consume("q")
    client.send(queue.Delete(queue="q"))
    assert methods(client) == ["queue.delete-ok", "basic.cancel"]


def test_delete_may_be_conditional(client: CoreClient) -> None:
    """if-unused spares a queue with consumers, if-empty one with messages (AMQP 0-9-1, queue.delete)."""
    client.declare("q")
    client.publish("q")
    with pytest.raises(PreconditionFailed, match="queue 'q' in vhost '/' not empty"):
        client.send(queue.Delete(queue="q", if_empty=True))
    client.consume("q")
    client.take()
    with pytest.raises(PreconditionFailed, match="queue 'q' in vhost '/' in use"):
        client.send(queue.Delete(queue="q", if_unused=True))
    assert client.call(queue.Delete(queue="none"), queue.DeleteOk).message_count == 0


def test_unused_queue_expires(broker: CoreBroker, client: CoreClient) -> None:
    """x-expires counts from the last consumer, get or declare, and not while there is a consumer (RabbitMQ, ttl)."""
    client.declare("q", arguments={"x-expires": 10_000})
    broker.advance(9)
    client.get("q")
    broker.advance(9)
    client.declare("q", arguments={"x-expires": 10_000})
    broker.advance(9)
    client.consume("q")
    broker.advance(1000)
    assert queues(broker) == {"q"}
    client.call(basic.Cancel(consumer_tag="tag"), basic.CancelOk)
    broker.advance(9.9)
    assert queues(broker) == {"q"}
    broker.advance(0.2)
    assert queues(broker) == set()


def test_expired_queue_dead_letters_nothing(broker: CoreBroker, client: CoreClient) -> None:
    """Messages of a queue that expires are dropped, not dead-lettered (RabbitMQ, dlx)."""
    client.declare("letters")
    client.declare("q", arguments={"x-expires": 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"})
    client.publish("q")
    broker.advance(2)
    assert client.count("letters") == 0
    with pytest.raises(NotFound, match="no queue 'q' in vhost '/'"):
        client.count("q")


def test_deadlines_of_deleted_queues_are_forgotten(broker: CoreBroker, client: CoreClient) -> None:
    """Queues that were to expire tomorrow and are deleted today do not pile up in the timer."""
    for number in range(3 * DEADLINES_MIN):
        client.declare(f"q{number}", arguments={"x-expires": 86_400_000})
        client.call(queue.Delete(queue=f"q{number}"), queue.DeleteOk)
    assert len(broker.core._deadlines) <= DEADLINES_MIN + 1


def test_server_named_queues_are_the_last_declared(client: CoreClient) -> None:
    """An empty name is a new queue at declare, and the last declared one elsewhere (AMQP 0-9-1, queue.bind)."""
    with pytest.raises(NotFound, match="no previously declared queue"):
        client.send(queue.Bind(exchange="amq.direct"))
    name = client.declare()
    assert name == "amq.gen-name-1"
    client.bind("", "amq.direct")
    client.publish(name, exchange_name="amq.direct")  # queue and key both empty: bound by its name
    assert client.count("") == 1


@pytest.mark.parametrize("what", ["queue", "exchange"])
def test_names_beginning_with_amq_are_reserved(client: CoreClient, what: str) -> None:
    """Only the broker makes names that begin with ``amq.`` (AMQP 0-9-1, 1.7.2.1.1)."""
    method = queue.Declare(queue="amq.mine") if what == "queue" else exchange.Declare(exchange="amq.mine", type="direct")
    with pytest.raises(AccessRefused, match=rf"{what} name 'amq.mine' contains reserved prefix 'amq\.\*'"):
        client.send(method)


def test_line_breaks_are_stripped_from_names(client: CoreClient) -> None:
    """A name with a line break is the name without it (RabbitMQ)."""
    assert client.declare("a\r\nb") == "ab"
    assert client.count("a\nb") == 0


def test_purge_takes_the_ready_ones_only(broker: CoreBroker, client: CoreClient) -> None:
    """purge-ok counts what was ready; deliveries still open stay (AMQP 0-9-1, queue.purge)."""
    client.declare("q", durable=True)
    client.publish_all("q", [b"0", b"1", b"2"])
    client.get("q")
    assert client.call(queue.Purge(queue="q"), queue.PurgeOk).message_count == 2
    client.nack(1, requeue=True)
    assert broker.ready("q") == [b"0"]


def test_a_durable_queue_is_on_disk_before_its_declare_ok(broker: CoreBroker, client: CoreClient) -> None:
    """The reply waits for the commit, also that of whoever declares it a moment later; without a change nobody waits."""
    other = broker.connect()
    for each in (client, other):
        each.send(queue.Declare(queue="q", durable=True))
        assert each.session.awaited_batch > broker.core.committed
    broker.turn()
    broker.commit()
    for each in (client, other):
        assert each.session.awaited_batch == broker.core.committed
    client.send(queue.Declare(queue="q", durable=True))
    assert client.session.awaited_batch == broker.core.committed
    client.send(queue.Declare(queue="transient"))
    assert client.session.awaited_batch == broker.core.committed


def test_a_purge_that_changes_nothing_on_disk_waits_for_nothing(broker: CoreBroker, client: CoreClient) -> None:
    """Transient messages of a durable queue are gone without a commit, and no commit would ever come."""
    client.declare("q", durable=True)
    client.publish("q", persistent=False)
    assert client.call(queue.Purge(queue="q"), queue.PurgeOk).message_count == 1
    assert client.session.awaited_batch <= broker.core.committed
    client.publish("q")
    broker.turn()
    broker.commit()
    client.send(queue.Purge(queue="q"))
    assert client.session.awaited_batch > broker.core.committed


# --------------------------------------------------------------------------------------- exchanges and bindings


def test_auto_delete_exchange_ends_with_its_last_binding(broker: CoreBroker, client: CoreClient) -> None:
    """It goes when the last binding from it goes, never before the first; chains fall together."""
    exchanges = broker.core.vhosts["/"].exchanges
    client.declare("q")
    client.declare_exchange("first", "fanout", auto_delete=True, durable=True)
    client.declare_exchange("second", "fanout", auto_delete=True)
    assert {"first", "second"} <= set(exchanges)
    client.call(exchange.Bind(destination="second", source="first"), exchange.BindOk)
    client.bind("q", "second")
    client.call(queue.Unbind(queue="q", exchange="second"), queue.UnbindOk)
    assert not {"first", "second"} & set(exchanges)


def test_deleting_a_queue_ends_auto_delete_exchanges(broker: CoreBroker, client: CoreClient) -> None:
    """A queue takes its bindings along, and these the exchanges that lived for them; all in one batch."""
    client.declare("q", durable=True)
    client.declare_exchange("x", "topic", auto_delete=True, durable=True)
    client.bind("q", "x", "a.#")
    client.call(queue.Delete(queue="q"), queue.DeleteOk)
    kinds = [type(change) for change in broker.written[-1].topology]
    assert kinds == [RemoveBinding, RemoveExchange, RemoveQueue]


def test_deleted_exchange_takes_its_bindings_along(broker: CoreBroker, client: CoreClient) -> None:
    """Bindings from it and to it are gone; a new one of that name begins without (AMQP 0-9-1, exchange.delete)."""
    client.declare("q")
    client.declare_exchange("x", "fanout")
    client.bind("q", "x")
    client.call(exchange.Bind(destination="x", source="amq.fanout"), exchange.BindOk)
    with pytest.raises(PreconditionFailed, match="exchange 'x' in vhost '/' in use"):
        client.send(exchange.Delete(exchange="x", if_unused=True))
    client.call(exchange.Delete(exchange="x"), exchange.DeleteOk)
    assert not broker.core.vhosts["/"].exchanges["amq.fanout"].bindings
    assert not broker.core.vhosts["/"].queues["q"].incoming
    client.declare_exchange("x", "fanout")
    client.publish("", exchange_name="x")
    assert client.count("q") == 0
    client.call(exchange.Delete(exchange="none"), exchange.DeleteOk)


def test_binding_is_idempotent(broker: CoreBroker, client: CoreClient) -> None:
    """The same binding twice is one; one unbind removes it, another does nothing (RabbitMQ)."""
    client.declare("q", durable=True)
    client.bind("q", "amq.direct", "k")
    client.bind("q", "amq.direct", "k")
    assert len(broker.core.vhosts["/"].exchanges["amq.direct"].bindings) == 1
    for _ in range(2):
        client.call(queue.Unbind(queue="q", exchange="amq.direct", routing_key="k"), queue.UnbindOk)
    assert not broker.core.vhosts["/"].exchanges["amq.direct"].bindings


@pytest.mark.parametrize(
    "method",
    [
        queue.Unbind(queue="q", exchange="none"),
        queue.Unbind(queue="none", exchange="amq.direct"),
        exchange.Unbind(destination="amq.direct", source="none"),
        exchange.Unbind(destination="none", source="amq.direct"),
    ],
)
def test_unbinding_what_does_not_exist_is_done_already(client: CoreClient, method: queue.Unbind) -> None:
    """There is no such binding afterwards, which is what was asked for (RabbitMQ)."""
    client.declare("q")
    client.send(method)
    assert methods(client) == [f"{method.NAME}-ok"]


def test_a_refused_binding_leaves_nothing_behind(broker: CoreBroker, client: CoreClient) -> None:
    """A headers binding that means nothing is not half made."""
    client.declare("q", durable=True)
    broker.commit()
    with pytest.raises(PreconditionFailed, match="Invalid x-match field value"):
        client.send(queue.Bind(queue="q", exchange="amq.headers", arguments={"x-match": "some"}))
    broker.turn()
    assert broker.unwritten == []
    assert not broker.core.vhosts["/"].queues["q"].incoming


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        (exchange.Declare(exchange="", type="direct"), AccessRefused, "operation not permitted on the default exchange"),
        (exchange.Declare(exchange="", passive=True), AccessRefused, "operation not permitted on the default exchange"),
        (exchange.Delete(exchange=""), AccessRefused, "operation not permitted on the default exchange"),
        (queue.Bind(queue="q", exchange=""), AccessRefused, "operation not permitted on the default exchange"),
        (
            exchange.Delete(exchange="amq.topic"),
            AccessRefused,
            r"deletion of system exchange 'amq\.topic' in vhost '/' not allowed",
        ),
        (exchange.Declare(exchange="x", type="magic"), PreconditionFailed, "unknown exchange type 'magic'"),
        (exchange.Declare(exchange="none", passive=True), NotFound, "no exchange 'none' in vhost '/'"),
        (
            exchange.Declare(exchange="x", type="direct", arguments={"alternate-exchange": 5}),
            PreconditionFailed,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        ),
        (queue.Bind(queue="q", exchange="none"), NotFound, "no exchange 'none' in vhost '/'"),
        (queue.Bind(queue="none", exchange="amq.direct"), NotFound, "no queue 'none' in vhost '/'"),
        (
            exchange.Declare(exchange="amq.direct", type="fanout", durable=True),
            PreconditionFailed,
            r"inequivalent arg 'type' for exchange 'amq\.direct' in vhost '/': received 'fanout' but current is 'direct'",
        ),
        (
            queue.Declare(queue="q", durable=True),
            PreconditionFailed,
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
        ),
    ],
)
def test_wrong_topology_is_refused_in_rabbitmqs_words(
    client: CoreClient, method: exchange.Declare, error: type[ReplyError], text: str
) -> None:
    """Code, text and failing method are those that clients know."""
    client.declare("q")
    with pytest.raises(error, match=text) as caught:
        client.send(method)
    assert (caught.value.class_id, caught.value.method_id) == method.INDEX


# ----------------------------------------------------------------------------------------------------- messages


def test_messages_expire_at_the_head(broker: CoreBroker, client: CoreClient) -> None:
    """The earlier of queue's and message's time to live counts, and is looked at when the message is at the head."""
    client.declare("q", arguments={"x-message-ttl": 10_000})
    client.publish("q", b"own", expiration="5000")
    client.publish("q", b"queue's", expiration="60000")
    broker.advance(4.9)
    assert client.count("q") == 2
    broker.advance(0.2)
    assert broker.ready("q") == [b"queue's"]
    broker.advance(5)
    assert client.count("q") == 0


def test_a_short_life_waits_behind_a_long_one(broker: CoreBroker, client: CoreClient) -> None:
    """A message that has expired behind one that has not goes when it reaches the head (RabbitMQ, ttl)."""
    client.declare("q")
    client.publish("q", b"long", expiration="10000")
    client.publish("q", b"short", expiration="1000")
    broker.advance(2)
    assert broker.ready("q") == [b"long", b"short"]
    got = client.get("q", no_ack=True)
    assert got is not None
    assert got.body == b"long"
    assert client.get("q") is None


def test_expired_messages_are_never_delivered(broker: CoreBroker, client: CoreClient) -> None:
    """Who comes late gets what is still alive, even before the timer has looked."""
    client.declare("q")
    client.publish("q", b"dead", expiration="1000")
    client.publish("q", b"alive")
    broker.now_s += 5
    client.consume("q")
    assert client.bodies() == [b"alive"]


def test_expiry_is_kept_over_a_requeue(broker: CoreBroker, client: CoreClient) -> None:
    """The time to live runs from when the message came, wherever it has been since (RabbitMQ, ttl)."""
    client.declare("q")
    client.publish("q", expiration="1000")
    client.get("q")
    broker.advance(5)
    client.nack(1, requeue=True)
    broker.advance(0)
    assert client.count("q") == 0


def test_no_time_to_live_is_now_or_never(broker: CoreBroker, client: CoreClient) -> None:
    """TTL 0 reaches a consumer that has room at this moment, or expires at once (RabbitMQ, ttl)."""
    client.declare("letters")
    client.declare("q", arguments={"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"})
    client.publish("q", b"nobody")
    assert client.count("letters") == 1
    client.qos(1)
    client.consume("q")
    client.publish("q", b"first")
    client.publish("q", b"no room")
    broker.now_s += 0.01  # the shell's clock goes on between a publish and the turn that delivers it
    assert client.bodies() == [b"first"]
    assert broker.ready("letters") == [b"nobody", b"no room"]


def test_dead_letters_of_a_ladder_arrive_in_order(broker: CoreBroker, client: CoreClient) -> None:
    """Messages that expire together are moved in their order, in one batch each."""
    client.declare("target", durable=True)
    client.declare(
        "wait",
        durable=True,
        arguments={"x-message-ttl": 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "target"},
    )
    client.publish_all("wait", [b"0", b"1", b"2"])
    broker.turn()
    broker.commit()
    broker.advance(1)
    (batch,) = broker.unwritten
    assert (len(batch.removed), len(batch.released), len(batch.placements)) == (3, 3, 3)
    client.consume("target")
    deliveries = client.deliveries()
    assert [each.body for each in deliveries] == [b"0", b"1", b"2"]
    assert deliveries[0].route == ("", "target")
    assert deliveries[0].headers["x-first-death-reason"] == "expired"
    assert not deliveries[0].redelivered


def test_rejected_messages_are_dead_lettered(client: CoreClient) -> None:
    """A message rejected without requeue goes to the dead-letter exchange, with its own key where none is given."""
    client.declare("letters")
    client.declare_exchange("dlx", "topic")
    client.bind("letters", "dlx", "#")
    client.declare("q", arguments={"x-dead-letter-exchange": "dlx"})
    client.publish("q", b"bad", headers={"n": 1})
    client.get("q")
    client.nack(1, requeue=False)
    client.consume("letters")
    (letter,) = client.deliveries()
    assert letter.route == ("dlx", "q")
    assert letter.headers["n"] == 1
    assert letter.headers["x-first-death-reason"] == "rejected"


def test_missing_dead_letter_exchange_drops(broker: CoreBroker, client: CoreClient) -> None:
    """Where the dead-letter exchange does not exist, or leads nowhere, the message is gone (RabbitMQ, dlx)."""
    client.declare("q", durable=True, arguments={"x-dead-letter-exchange": "none"})
    client.declare("r", arguments={"x-dead-letter-exchange": "amq.direct"})
    for name in ("q", "r"):
        client.publish(name)
        got = client.get(name)
        assert got is not None
        assert isinstance(got.method, basic.GetOk)
        client.nack(got.method.delivery_tag, requeue=False)
        assert client.count(name) == 0
    broker.turn()
    broker.commit()
    assert sum(len(batch.messages) - len(batch.released) for batch in broker.written) == 0


def test_a_circle_of_time_to_live_ends(broker: CoreBroker, client: CoreClient) -> None:
    """A message that would expire back into the queue it expired from is dropped (RabbitMQ, dlx)."""
    for name, target in [("a", "b"), ("b", "a")]:
        client.declare(name, arguments={"x-message-ttl": 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target})
    client.publish("a")
    broker.advance(1)
    assert (client.count("a"), client.count("b")) == (0, 1)
    broker.advance(1)
    assert (client.count("a"), client.count("b")) == (0, 0)


def test_a_retry_ladder_goes_round_for_ever(broker: CoreBroker, client: CoreClient) -> None:
    """With a rejection in it a circle is meant: reject, wait, again (RabbitMQ, dlx)."""
    client.declare("work", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "wait"})
    client.declare("wait", arguments={"x-message-ttl": 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work"})
    client.publish("work")
    client.consume("work")
    for round_ in range(1, 6):
        (attempt,) = client.deliveries()
        deaths = attempt.headers.get("x-death", [])
        assert isinstance(deaths, list)
        assert [death["count"] for death in deaths if isinstance(death, dict)] == [round_ - 1] * (2 if round_ > 1 else 0)
        client.nack(attempt.tag, requeue=False)
        broker.advance(1)


def test_many_queues_of_no_time_to_live_in_a_row(broker: CoreBroker, client: CoreClient) -> None:
    """A message falls through 400 dead-letter exchanges without falling off the stack."""
    for number in range(400):
        arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{number + 1}"}
        client.declare(f"q{number}", arguments=arguments)
    client.declare("q400")
    client.publish("q0")
    broker.turn()
    assert len(broker.ready("q400")) == 1
