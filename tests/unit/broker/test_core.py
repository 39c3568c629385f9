"""The broker's core, driven by calls: publishing, delivering, settling, prefetch, confirms."""

from __future__ import annotations

import pytest

from leveret.amqp.methods import basic, channel, confirm, queue, tx
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import Table
from leveret.errors import (
    AccessRefused,
    NotAllowed,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
    ReplyError,
)
from tests.support.core import Confirmed, CoreBroker, CoreClient, Delivered, Sent, route


@pytest.fixture
def broker() -> CoreBroker:
    """An empty broker."""
    return CoreBroker()


@pytest.fixture
def client(broker: CoreBroker) -> CoreClient:
    """A client with channel 1 open."""
    return broker.connect()


@pytest.fixture
def q(client: CoreClient) -> str:
    """An empty transient queue."""
    return client.declare("q")


def numbers(count: int, start: int = 0) -> list[bytes]:
    """Return that many bodies."""
    return [b"%d" % number for number in range(start, start + count)]


# ------------------------------------------------------------------------------------------- publish and deliver


def test_published_messages_are_delivered_in_order(client: CoreClient, q: str) -> None:
    """What one channel publishes to one queue arrives in that order (AMQP 0-9-1, 4.7)."""
    client.consume(q)
    client.publish_all(q, numbers(5))
    assert [(each.tag, each.redelivered, each.body) for each in client.deliveries()] == [
        (tag, False, b"%d" % (tag - 1)) for tag in range(1, 6)
    ]


def test_backlog_is_delivered_to_a_later_consumer(client: CoreClient, q: str) -> None:
    """Messages wait for somebody to consume them; consume-ok comes first."""
    client.publish_all(q, numbers(3))
    client.send(basic.Consume(queue=q, consumer_tag="late"))
    first, *rest = client.take()
    assert isinstance(first, Sent)
    assert isinstance(first.method, basic.ConsumeOk)
    assert [each.body for each in rest if isinstance(each, Delivered)] == numbers(3)


def test_delivery_tags_count_per_channel(client: CoreClient, q: str) -> None:
    """Tags run from 1 on each channel, shared by basic.get and basic.deliver (AMQP 0-9-1, 1.8.3)."""
    client.open(2)
    client.publish_all(q, numbers(4))
    got = client.get(q)
    assert got is not None
    assert isinstance(got.method, basic.GetOk)
    assert got.method.delivery_tag == 1
    client.qos(1)
    client.qos(1, channel=2)
    client.consume(q, "one")
    client.consume(q, "two", channel=2)
    assert [(each.channel, each.tag) for each in client.deliveries()] == [(1, 2), (2, 1)]


def test_get_tells_how_many_are_left(client: CoreClient, q: str) -> None:
    """basic.get-ok has the ready count behind it, get-empty comes from an empty queue (AMQP 0-9-1, 1.8.3.11)."""
    assert client.get(q) is None
    client.publish_all(q, numbers(2))
    got = client.get(q)
    assert got is not None
    assert isinstance(got.method, basic.GetOk)
    assert (got.method.message_count, got.method.exchange, got.method.routing_key, got.body) == (1, "", q, b"0")


def test_consumers_take_turns(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """Messages go round robin among consumers that have room (RabbitMQ, consumers)."""
    others = [broker.connect() for _ in range(2)]
    for number, each in enumerate([client, *others]):
        each.consume(q, f"tag-{number}")
    client.publish_all(q, numbers(9))
    broker.turn()
    assert [each.bodies() for each in [client, *others]] == [[b"0", b"3", b"6"], [b"1", b"4", b"7"], [b"2", b"5", b"8"]]


def test_a_full_consumer_is_passed_over(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """Who is at its limit loses its turn to the others, and gets one again when it acknowledges."""
    other = broker.connect()
    client.qos(1)
    client.consume(q)
    other.consume(q)
    client.publish_all(q, numbers(4))
    broker.turn()
    assert (client.bodies(), other.bodies()) == ([b"0"], [b"1", b"2", b"3"])
    client.ack(1)
    client.publish_all(q, numbers(2, 4))
    broker.turn()
    assert sorted(client.bodies() + other.bodies()) == [b"4", b"5"]


def test_higher_consumer_priority_goes_first(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """Lower ones get messages only while all above are full; equals take turns (RabbitMQ, consumer priorities)."""
    client.qos(2)
    for tag, priority in [("low", -1), ("high 1", 5), ("high 2", 5), ("none", 0)]:
        client.consume(q, tag, arguments={"x-priority": priority} if priority else {})
    client.publish_all(q, numbers(8))
    assert [each.consumer_tag for each in client.deliveries()] == [*["high 1", "high 2"] * 2, "none", "none", "low", "low"]
    client.ack(3)
    client.ack(8)
    client.publish_all(q, numbers(2))
    assert [each.consumer_tag for each in client.deliveries()] == ["high 1", "low"]


def test_fanout_is_one_message_in_many_queues(broker: CoreBroker, client: CoreClient) -> None:
    """Every bound queue gets the message; its bytes exist once."""
    for name in ("a", "b"):
        client.declare(name)
        client.bind(name, "amq.fanout")
        client.consume(name, name)
    client.publish("ignored", b"news", exchange_name="amq.fanout")
    first, second = client.deliveries()
    assert {first.consumer_tag, second.consumer_tag} == {"a", "b"}
    assert first.message is second.message
    assert first.route == ("amq.fanout", "ignored")


def test_a_queue_gets_one_copy_whatever_its_bindings(client: CoreClient, q: str) -> None:
    """Several bindings, and several ways through exchanges, are one delivery (RabbitMQ, exchange to exchange)."""
    client.declare_exchange("inner", "fanout")
    client.bind(q, "inner")
    client.bind(q, "amq.topic", "a.*")
    client.bind(q, "amq.topic", "a.#")
    for source, target in [("amq.topic", "inner"), ("inner", "amq.topic")]:  # a circle, too
        session = client.session
        session.vhost.bind(session.vhost.exchange(source), session.vhost.exchange(target), "#", {})
    client.publish("a.b", exchange_name="amq.topic")
    assert client.count(q) == 1


def test_headers_exchange_routes_each_message_by_itself(client: CoreClient, q: str) -> None:
    """Two messages of one routing key may go different ways, so that nothing is remembered of them."""
    client.bind(q, "amq.headers", "", {"x-match": "any", "kind": "wanted"})
    for kind in ("other", "wanted", "other", "wanted"):
        client.publish("same", kind.encode(), exchange_name="amq.headers", headers={"kind": kind})
    client.publish("same", b"none", exchange_name="amq.headers")
    client.consume(q, no_ack=True)
    assert client.bodies() == [b"wanted", b"wanted"]


def test_cc_and_bcc_add_routing_keys(client: CoreClient) -> None:
    """A message goes to its own key and those in CC and BCC, once to each queue; BCC is not seen (RabbitMQ, sender-selected)."""
    for name in ("to", "cc", "bcc", "nobody"):
        client.declare(name)
        client.consume(name, name)
    client.publish("to", headers={"CC": ["cc", "to", "missing", 5], "BCC": ["bcc"], "mine": 1})
    deliveries = client.deliveries()
    assert sorted(each.consumer_tag for each in deliveries) == ["bcc", "cc", "to"]
    for each in deliveries:
        assert each.route == ("", "to")
        assert each.headers == {"CC": ["cc", "to", "missing", 5], "mine": 1}
    client.publish("missing", mandatory=True, headers={"BCC": ["cc"]})
    assert len(client.deliveries()) == 1  # a copy counts as routed


def test_other_headers_may_have_the_letters_of_cc(client: CoreClient, q: str) -> None:
    """Only headers of those very names add keys; the others go through untouched."""
    header = encode_header(0, BasicProperties(headers={"CCC": ["x"], "text": "CC"}, correlation_id="CC"))
    client.session.channels[1].publish(route("", q), 0, header, b"", 0.0)
    client.consume(q)
    (delivery,) = client.deliveries()
    assert delivery.message.header == header


@pytest.mark.parametrize(
    ("headers", "why"),
    [({"CC": "x"}, '"CC",longstr'), ({"BCC": None}, '"BCC",void')],
)
def test_wrong_cc_is_a_failed_precondition(client: CoreClient, q: str, headers: Table, why: str) -> None:
    """CC and BCC are arrays of routing keys; what is not closes the channel, and nothing is sent."""
    with pytest.raises(PreconditionFailed) as caught:
        client.publish(q, headers=headers)
    assert caught.value.reply_text == f"PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,{why}}}"
    assert (caught.value.class_id, caught.value.method_id) == basic.Publish.INDEX
    assert client.count(q) == 0


def test_dead_letters_go_on_to_their_copies(client: CoreClient) -> None:
    """Without a dead-letter key the old ones lead on, CC included; with one only that (RabbitMQ, dlx)."""
    client.declare_exchange("dlx", "direct")
    for name in ("to", "cc"):
        client.declare(f"{name} letters")
        client.bind(f"{name} letters", "dlx", name)
    client.declare("to", arguments={"x-dead-letter-exchange": "dlx"})
    client.declare("fixed", arguments={"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "to"})
    for tag, name in enumerate(("to", "fixed"), start=1):
        client.publish(name, headers={"CC": ["cc"]})
        client.get(name)
        client.nack(tag, requeue=False)
    assert (client.count("to letters"), client.count("cc letters")) == (2, 1)


def test_alternate_exchange_takes_what_is_not_routed(client: CoreClient, q: str) -> None:
    """What an exchange routes nowhere goes to its alternate, and counts as routed (RabbitMQ, ae)."""
    client.bind(q, "amq.fanout")
    client.declare_exchange("x", "direct", arguments={"alternate-exchange": "amq.fanout"})
    client.publish("nowhere", exchange_name="x", mandatory=True)
    assert client.take() == []
    assert client.count(q) == 1


def test_topology_changes_are_seen_by_the_next_publish(client: CoreClient) -> None:
    """A remembered route is forgotten when a queue or a binding comes or goes."""
    client.confirm_select()
    for _ in range(2):
        client.publish("later", mandatory=True)
        assert [type(each).__name__ for each in client.take()] == ["Sent", "Confirmed"]
        client.declare("later")
        client.publish("later", mandatory=True)
        assert client.confirms() == [(client.session.channels[1].published, False)]
        client.call(queue.Delete(queue="later"), queue.DeleteOk)


# ------------------------------------------------------------------------------------------ acknowledge, requeue


def test_acknowledged_messages_are_gone(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """An acknowledged message comes back to nobody; the others do when the channel closes."""
    client.publish_all(q, numbers(4))
    client.consume(q)
    client.take()
    client.ack(1)
    client.ack(3)
    client.close_channel(1)
    assert broker.ready(q) == [b"1", b"3"]


def test_acknowledge_multiple_means_up_to_and_with(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """The multiple bit settles every outstanding delivery up to the tag; 0 means all (AMQP 0-9-1, 1.8.3.13)."""
    client.publish_all(q, numbers(6))
    client.consume(q)
    client.take()
    client.ack(1)
    client.ack(3, multiple=True)
    client.ack(5)
    assert list(client.session.channels[1].unacked) == [4, 6]
    client.ack(0, multiple=True)
    assert not client.session.channels[1].unacked
    client.ack(0, multiple=True)  # with nothing outstanding this is fine


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("tag", [1, 3, 7])
def test_unknown_delivery_tag_is_a_failed_precondition(client: CoreClient, q: str, tag: int, multiple: bool) -> None:
    """A tag that was settled before, or never given out, closes the channel (AMQP 0-9-1, 1.8.3.13.1)."""
    client.publish_all(q, numbers(4))
    client.consume(q)
    client.take()
    client.ack(1)
    client.ack(3)
    with pytest.raises(PreconditionFailed, match=f"unknown delivery tag {tag}") as caught:
        client.ack(tag, multiple=multiple)
    assert (caught.value.class_id, caught.value.method_id) == basic.Ack.INDEX
    assert list(client.session.channels[1].unacked) == [2, 4]


def test_tag_zero_alone_is_unknown(client: CoreClient, q: str) -> None:
    """0 means all only with the multiple bit."""
    with pytest.raises(PreconditionFailed, match="unknown delivery tag 0"):
        client.ack(0)


def test_requeued_messages_return_to_their_positions(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """Got 0, 1, 2; refused 1 and then 0: the next are 0, 1, 3 (RabbitMQ, confirms), and those refused are redelivered."""
    client.publish_all(q, numbers(5))
    for _ in range(3):
        client.get(q)
    client.nack(2, requeue=True)
    client.nack(1, requeue=True)
    assert broker.ready(q) == [b"0", b"1", b"3", b"4"]
    client.consume(q)
    assert [(each.body, each.redelivered) for each in client.deliveries()] == [
        (b"0", True),
        (b"1", True),
        (b"3", False),
        (b"4", False),
    ]


def test_refused_without_requeue_are_gone(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """basic.nack and basic.reject without requeue discard, where no dead-letter exchange takes the message."""
    client.publish_all(q, numbers(3))
    client.consume(q)
    client.take()
    client.nack(2, requeue=False, multiple=True)
    client.close_channel(1)
    assert broker.ready(q) == [b"2"]


def test_recover_requeues_everything(client: CoreClient, q: str) -> None:
    """basic.recover with requeue brings all unacknowledged deliveries back, to this consumer too."""
    client.publish_all(q, numbers(2))
    client.consume(q)
    client.take()
    client.send(basic.Recover(requeue=True))
    again = client.take()
    assert isinstance(again[0], Sent)
    assert isinstance(again[0].method, basic.RecoverOk)
    assert [(each.tag, each.body, each.redelivered) for each in again[1:] if isinstance(each, Delivered)] == [
        (3, b"0", True),
        (4, b"1", True),
    ]
    with pytest.raises(NotImplementedByBroker, match="requeue=false"):
        client.send(basic.Recover(requeue=False))


def test_no_ack_messages_are_gone_when_sent(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """With no-ack a message counts as acknowledged once it is delivered."""
    client.publish_all(q, numbers(2))
    client.consume(q, no_ack=True)
    assert client.bodies() == numbers(2)
    client.close()
    assert broker.ready(q) == []


def test_a_closing_channel_gives_everything_back(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """What a channel held, from consumers and from basic.get, goes back in order when it closes."""
    client.publish_all(q, numbers(3))
    client.get(q)
    client.consume(q)
    client.take()
    client.close_channel(1)
    other = broker.connect()
    other.consume(q)
    assert [(each.body, each.redelivered) for each in other.deliveries()] == [(body, True) for body in numbers(3)]


def test_cancelling_gives_nothing_back(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """What a cancelled consumer holds stays with the channel and can be acknowledged (AMQP 0-9-1, 1.8.3.5)."""
    client.publish_all(q, numbers(2))
    client.consume(q, "t")
    client.take()
    client.call(basic.Cancel(consumer_tag="t"), basic.CancelOk)
    client.publish(q, b"after")
    assert client.take() == []
    client.ack(2, multiple=True)
    assert broker.ready(q) == [b"after"]


def test_cancelling_an_unknown_tag_is_answered(client: CoreClient) -> None:
    """cancel-ok comes for any tag (AMQP 0-9-1, 1.8.3.5)."""
    assert client.call(basic.Cancel(consumer_tag="nobody"), basic.CancelOk).consumer_tag == "nobody"


def test_settling_many_deliveries_in_pieces_is_quick(client: CoreClient, q: str) -> None:
    """An acknowledgement costs what it settles; a walk over all that was settled before took 3 s of a million in hundreds."""
    client.consume(q)
    for _ in range(10):
        client.publish_all(q, [b""] * 10_000)
        client.take()
    while len(client.session.channels[1].unacked) < 100_000:
        client.take()
    for tag in range(10, 100_001, 10):
        client.ack(tag, multiple=True)
    assert not client.session.channels[1].unacked


# ------------------------------------------------------------------------------------------------------ prefetch


def test_prefetch_is_of_each_later_consumer(client: CoreClient, q: str) -> None:
    """Without global, qos limits consumers made afterwards, each on its own (RabbitMQ, consumer prefetch)."""
    client.consume(q, "unlimited")
    client.qos(2)
    client.consume(q, "two")
    client.qos(1)
    client.consume(q, "one")
    client.publish_all(q, numbers(9))
    taken = [each.consumer_tag for each in client.deliveries()]
    assert {tag: taken.count(tag) for tag in ("unlimited", "two", "one")} == {"unlimited": 6, "two": 2, "one": 1}


def test_both_prefetch_limits_hold_together(client: CoreClient, q: str) -> None:
    """qos(2) and qos(3, global), two consumers: three deliveries, at most two each (seen on RabbitMQ)."""
    client.qos(2)
    client.qos(3, shared=True)
    client.consume(q, "a")
    client.consume(q, "b")
    client.publish_all(q, numbers(9))
    assert sorted(each.consumer_tag for each in client.deliveries()) in (["a", "a", "b"], ["a", "b", "b"])
    client.ack(1)
    assert len(client.deliveries()) == 1
    client.ack(0, multiple=True)
    assert len(client.deliveries()) == 3


def test_qos_without_global_lifts_the_shared_limit(client: CoreClient, q: str) -> None:
    """qos(global=false) switches the channel-wide limit off, and running consumers go on (RabbitMQ)."""
    client.qos(1, shared=True)
    client.consume(q)
    client.publish_all(q, numbers(3))
    assert client.bodies() == [b"0"]
    client.send(basic.Qos(prefetch_count=1))
    assert [type(each).__name__ for each in client.take()] == ["Sent", "Delivered", "Delivered"]


def test_shared_prefetch_frees_every_consumer(client: CoreClient) -> None:
    """An acknowledgement to one consumer makes room for another on the channel."""
    client.declare("a")
    client.declare("b")
    client.qos(1, shared=True)
    client.consume("a", "of a")
    client.consume("b", "of b")
    client.publish("a", b"1")
    client.publish("b", b"2")
    assert [each.consumer_tag for each in client.deliveries()] == ["of a"]
    client.ack(1)
    assert [each.consumer_tag for each in client.deliveries()] == ["of b"]


def test_get_and_no_ack_know_no_prefetch(client: CoreClient, q: str) -> None:
    """Limits are for consumers that acknowledge (RabbitMQ, confirms)."""
    client.qos(1)
    client.qos(1, shared=True)
    client.publish_all(q, numbers(6))
    assert [client.get(q) is not None for _ in range(3)] == [True] * 3
    client.consume(q, no_ack=True)
    assert client.bodies() == numbers(3, 3)


def test_prefetch_size_is_not_implemented(client: CoreClient) -> None:
    """A window in bytes is refused as by RabbitMQ."""
    with pytest.raises(NotImplementedByBroker, match=r"prefetch_size!=0 \(10\)"):
        client.send(basic.Qos(prefetch_size=10))


def test_a_congested_session_gets_nothing_more(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """A client that does not read holds about one outbox of messages; the others get the rest."""
    slow = broker.connect()
    slow.consume(q, no_ack=True)
    body = bytes(100_000)
    for _ in range(30):
        client.publish(q, body)
    broker.turn()
    held = len(slow.session.outbox)
    assert 10 <= held <= 12
    client.consume(q, no_ack=True)
    received = 0
    while deliveries := client.deliveries():
        received += len(deliveries)
    assert received == 30 - held
    client.publish(q, body)
    assert len(client.deliveries()) == 1
    # It reads: its place in the line is back.
    slow.take()
    client.publish_all(q, [body, body])
    broker.turn()
    assert [len(client.deliveries()), len(slow.deliveries())] == [1, 1]


# ------------------------------------------------------------------------------------------------------ confirms


def test_transient_messages_are_confirmed_at_once(client: CoreClient, q: str) -> None:
    """What need not be on disk is confirmed in the same turn, many with one multiple (RabbitMQ, confirms)."""
    client.confirm_select()
    client.publish_all(q, numbers(5), persistent=False)
    assert client.confirms() == [(5, True)]
    client.publish(q, persistent=False)
    assert client.confirms() == [(6, False)]


def test_persistent_messages_are_confirmed_when_they_are_on_disk(broker: CoreBroker, client: CoreClient) -> None:
    """No confirm before the commit that holds the message; one for all that the commit holds."""
    client.declare("durable", durable=True)
    client.confirm_select()
    client.publish_all("durable", numbers(3))
    assert client.take() == []
    client.publish("durable")
    assert client.take() == []
    broker.commit()
    assert client.confirms() == [(4, True)]


def test_confirms_stay_in_order(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """A transient message behind a stored one is confirmed with it, never before it."""
    client.declare("durable", durable=True)
    client.confirm_select()
    client.publish("durable")
    client.publish(q, persistent=False)
    assert client.take() == []
    client.publish(q, persistent=False)
    assert client.take() == []
    broker.commit()
    assert client.confirms() == [(3, True)]
    client.publish(q, persistent=False)
    assert client.confirms() == [(4, False)]


def test_channels_wait_for_their_own_batches_only(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """A channel that stored nothing does not wait for the disk."""
    client.declare("durable", durable=True)
    client.open(2)
    client.confirm_select(1)
    client.confirm_select(2)
    client.publish("durable", channel=1)
    client.publish(q, channel=2, persistent=False)
    assert client.take() == [Confirmed(2, 1, False)]
    broker.commit()
    assert client.take() == [Confirmed(1, 1, False)]


def test_a_message_consumed_before_its_commit_is_still_confirmed(broker: CoreBroker, client: CoreClient) -> None:
    """Placed and acknowledged inside one batch, nothing is written, and the publisher hears of it all the same."""
    client.declare("durable", durable=True)
    client.confirm_select()
    client.consume("durable", no_ack=True)
    client.publish("durable")
    assert len(client.deliveries()) == 1
    broker.commit()
    assert client.confirms() == [(1, False)]
    assert not any(batch.messages for batch in broker.written)


def test_unroutable_mandatory_message_is_returned_before_its_confirm(client: CoreClient) -> None:
    """basic.return 312 with the message whole, then the confirm (RabbitMQ, confirms)."""
    client.confirm_select()
    client.publish("nowhere", b"lost", mandatory=True, message_id="7")
    returned, confirmed = client.take()
    assert isinstance(returned, Sent)
    assert isinstance(returned.method, basic.Return)
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key, returned.body) == ("", "nowhere", b"lost")
    assert confirmed == Confirmed(1, 1, False)


def test_unroutable_message_is_dropped_and_confirmed(client: CoreClient) -> None:
    """Without mandatory nobody hears of a message that no queue takes, but its publisher's confirm."""
    client.confirm_select()
    client.publish("nowhere")
    assert client.confirms() == [(1, False)]


def test_confirms_count_from_the_first_select(client: CoreClient, q: str) -> None:
    """What was published before confirm.select has no number; a second select changes nothing (RabbitMQ)."""
    client.publish(q)
    client.confirm_select()
    client.publish(q)
    assert client.confirms() == [(1, False)]
    client.confirm_select()
    client.publish(q)
    assert client.confirms() == [(2, False)]


def test_a_closed_channel_confirms_nothing(broker: CoreBroker, client: CoreClient, q: str) -> None:
    """Open confirms are lost with their channel: nothing is sent on a number that is closed (RabbitMQ)."""
    client.declare("durable", durable=True)
    client.confirm_select()
    client.publish("durable")
    broker.turn()
    client.publish(q, persistent=False)
    client.close_channel(1)
    assert client.take() == []
    broker.commit()
    assert client.take() == []


def test_ended_sessions_wait_for_no_commit(broker: CoreBroker, client: CoreClient) -> None:
    """A client that left before its confirm leaves nothing behind."""
    client.declare("durable", durable=True)
    client.confirm_select()
    client.publish("durable")
    broker.turn()
    client.close()
    broker.commit()
    assert not broker.core.sessions
    assert not broker.core._awaiting_commit


# -------------------------------------------------------------------------------------- refusals of what is sent


def test_missing_exchange_is_not_found(client: CoreClient) -> None:
    """An exchange that is published to exists; the error names basic.publish (AMQP 0-9-1, 1.8.3.7.2)."""
    with pytest.raises(NotFound, match="no exchange 'x' in vhost '/'") as caught:
        client.publish("key", exchange_name="x")
    assert (caught.value.class_id, caught.value.method_id) == basic.Publish.INDEX


def test_internal_exchange_takes_no_publish(client: CoreClient) -> None:
    """Only other exchanges send to an internal one."""
    client.declare_exchange("inner", "fanout", internal=True)
    with pytest.raises(AccessRefused, match="cannot publish to internal exchange 'inner' in vhost '/'"):
        client.publish("key", exchange_name="inner")


def test_immediate_is_not_implemented(client: CoreClient, q: str) -> None:
    """The immediate flag is refused as by RabbitMQ since 3.0."""
    with pytest.raises(NotImplementedByBroker, match="immediate=true"):
        client.session.channels[1].publish(b"\x00\x01q", 2, bytes(14), b"", 0.0)


def test_user_id_is_the_one_that_logged_in(client: CoreClient, q: str) -> None:
    """A message may name its sender only truthfully (RabbitMQ, validated user-id)."""
    client.publish(q, user_id="guest")
    with pytest.raises(PreconditionFailed, match="user_id property set to 'bob' but authenticated user was 'guest'"):
        client.publish(q, user_id="bob")


@pytest.mark.parametrize(
    ("expiration", "why"),
    [
        ("abc", "no_integer"),
        ("", "no_integer"),
        (" 5", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("10s", '{leftover_string,"s"}'),
        ("-1x", '{leftover_string,"x"}'),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_expiration_is_digits(client: CoreClient, q: str, expiration: str, why: str) -> None:
    """The expiration property is a number of milliseconds; RabbitMQ's words say what it is instead."""
    with pytest.raises(PreconditionFailed) as caught:
        client.publish(q, expiration=expiration)
    assert caught.value.reply_text == f"PRECONDITION_FAILED - invalid expiration '{expiration}': {why}"


@pytest.mark.parametrize("method", [tx.Select(), tx.Commit(), tx.Rollback()])
def test_transactions_are_refused_clearly(client: CoreClient, method: tx.Select) -> None:
    """Who asks for a transaction is told that there is none, and what to use."""
    with pytest.raises(NotImplementedByBroker, match="transactions are not available yet; use publisher confirms"):
        client.send(method)


def test_direct_reply_to_is_refused_clearly(client: CoreClient) -> None:
    """Who consumes RabbitMQ's pseudo-queue is told that there is none, and what to use."""
    with pytest.raises(NotImplementedByBroker, match="direct reply-to is not available yet; declare an exclusive queue"):
        client.send(basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))


def test_flow_can_only_be_on(client: CoreClient) -> None:
    """channel.flow(active) is answered, and pausing refused, as by RabbitMQ."""
    assert client.call(channel.Flow(active=True), channel.FlowOk).active
    with pytest.raises(NotImplementedByBroker, match="active=false"):
        client.send(channel.Flow(active=False))


def test_reused_consumer_tag_is_not_allowed(client: CoreClient, q: str) -> None:
    """A tag names one consumer of its channel (RabbitMQ: 530)."""
    client.consume(q, "t")
    with pytest.raises(NotAllowed, match="attempt to reuse consumer tag 't'"):
        client.send(basic.Consume(queue=q, consumer_tag="t"))


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_exclusive_consumer_is_alone(broker: CoreBroker, client: CoreClient, q: str, first: bool, second: bool) -> None:
    """An exclusive consumer suffers no other, and comes in nowhere late; basic.get still works (RabbitMQ)."""
    client.consume(q, exclusive=first)
    other = broker.connect()
    with pytest.raises(AccessRefused, match="queue 'q' in vhost '/' in exclusive use"):
        other.send(basic.Consume(queue=q, exclusive=second))
    client.publish(q)
    assert len(client.deliveries()) == 1
    client.call(basic.Cancel(consumer_tag="tag"), basic.CancelOk)
    other.consume(q, exclusive=second)
    assert other.get(q) is None


def test_an_unserved_method_is_invalid_and_named(client: CoreClient) -> None:
    """What the broker has no answer to closes the connection and names the method."""
    with pytest.raises(ReplyError, match="503 COMMAND_INVALID - unimplemented method") as caught:
        client.send(confirm.SelectOk())
    assert (caught.value.class_id, caught.value.method_id) == confirm.SelectOk.INDEX


def test_methods_on_a_closed_channel_are_ignored(client: CoreClient, q: str) -> None:
    """What arrives for a channel the broker has closed is passed over until close-ok."""
    client.close_channel(1)
    client.send(queue.Purge(queue=q))
    assert client.take() == []
