"""The books of unconfirmed messages and pending calls."""

from __future__ import annotations

import pytest

from leveret.amqp.methods import basic, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.client.session import Calls, Confirms
from leveret.errors import RemoteProtocolError


def _confirms(*names: str) -> Confirms[str]:
    confirms: Confirms[str] = Confirms()
    for name in names:
        confirms.add((name, "", "queue", name.encode(), b"body"))
    return confirms


def _owners(settled: list[tuple[str, str, str, bytes, bytes]]) -> list[str]:
    return [publication[0] for publication in settled]


def test_messages_are_numbered_from_one() -> None:
    """The first message after confirm.select has the number 1."""
    confirms: Confirms[str] = Confirms()
    assert [confirms.add((name, "", "", b"", b"")) for name in "abc"] == [1, 2, 3]


def test_a_single_confirm_settles_one_message() -> None:
    """basic.ack without multiple settles the message it names, whatever the order."""
    confirms = _confirms("a", "b", "c")
    assert _owners(confirms.settle(2, multiple=False)) == ["b"]
    assert _owners(confirms.settle(1, multiple=False)) == ["a"]
    assert len(confirms) == 1


def test_a_multiple_confirm_settles_all_up_to_it() -> None:
    """With multiple every message up to the tag is settled that was not before, in the order they were sent."""
    confirms = _confirms("a", "b", "c", "d")
    confirms.settle(2, multiple=False)
    assert _owners(confirms.settle(3, multiple=True)) == ["a", "c"]
    assert _owners(confirms.settle(3, multiple=True)) == []
    assert _owners(confirms.settle(4, multiple=True)) == ["d"]


def test_tag_zero_with_multiple_settles_everything() -> None:
    """AMQP 0-9-1, basic.ack: a tag of zero with multiple means all outstanding messages."""
    assert _owners(_confirms("a", "b").settle(0, multiple=True)) == ["a", "b"]


@pytest.mark.parametrize("multiple", [False, True])
def test_a_confirm_for_a_message_never_sent_is_the_brokers_error(multiple: bool) -> None:
    """A tag beyond the last message breaks the protocol, and must not make us count up to it."""
    with pytest.raises(RemoteProtocolError, match="confirmed message 9223372036854775807 of 1"):
        _confirms("a").settle(2**63 - 1, multiple=multiple)


def test_forgotten_messages_are_not_settled() -> None:
    """The late confirm of a message that nobody waits for means nothing."""
    confirms = _confirms("a", "b")
    confirms.forget(1)
    assert _owners(confirms.settle(2, multiple=True)) == ["b"]


def test_a_returned_message_is_found_by_its_bytes() -> None:
    """Of several messages to one queue the one with the same header comes back, and its confirm settles nothing more."""
    confirms = _confirms("a", "b", "c")
    returned = confirms.take_returned("", "queue", b"b", b"body")
    assert returned is not None
    assert returned[0] == "b"
    assert _owners(confirms.settle(3, multiple=True)) == ["a", "c"]


def test_a_returned_message_is_found_by_its_ids_when_its_header_was_encoded_anew() -> None:
    """RabbitMQ 4 writes the header of what it returns anew; the ids in it still tell which message it was."""
    confirms: Confirms[str] = Confirms()
    for name in ("one", "two"):
        confirms.add((name, "", "queue", encode_header(4, BasicProperties(correlation_id=name, headers={"n": 1})), b"body"))
    anew = encode_header(4, BasicProperties(correlation_id="two", headers={"n": 1, "more": "x"}))
    returned = confirms.take_returned("", "queue", anew, b"body")
    assert returned is not None
    assert returned[0] == "two"


def test_of_equal_messages_the_first_is_returned() -> None:
    """When nothing tells messages apart it makes no difference which of them came back."""
    confirms = _confirms("a", "b")
    returned = confirms.take_returned("", "queue", b"not a header", b"body")
    assert returned is not None
    assert returned[0] == "a"


@pytest.mark.parametrize(("exchange", "key", "body"), [("x", "queue", b"body"), ("", "other", b"body"), ("", "queue", b"other")])
def test_a_return_of_something_else_is_nobodys(exchange: str, key: str, body: bytes) -> None:
    """Exchange, routing key and body must be those of a message that is outstanding."""
    confirms = _confirms("a")
    assert confirms.take_returned(exchange, key, b"a", body) is None
    assert len(confirms) == 1


def test_clear_gives_all_that_is_outstanding() -> None:
    """What is outstanding when the channel goes comes back in the order it was sent."""
    confirms = _confirms("a", "b", "c")
    confirms.settle(2, multiple=False)
    assert _owners(confirms.clear()) == ["a", "c"]
    assert len(confirms) == 0


def test_replies_answer_calls_in_their_order() -> None:
    """The first reply answers the first call (AMQP 0-9-1, 4.2.2)."""
    calls: Calls[str] = Calls()
    calls.add(queue.Declare("q"), "declare")
    calls.add(queue.Bind("q", "x"), "bind")
    assert calls.answer(queue.DeclareOk("q", 0, 0)) == "declare"
    assert calls.answer(queue.BindOk()) == "bind"


def test_a_call_may_have_several_replies() -> None:
    """basic.get is answered by get-ok or by get-empty."""
    calls: Calls[str] = Calls()
    calls.add(basic.Get("q"), "get")
    assert calls.answer(basic.GetEmpty()) == "get"


def test_a_reply_out_of_turn_is_the_brokers_error() -> None:
    """A reply to another call than the next, or to none, breaks the protocol."""
    calls: Calls[str] = Calls()
    with pytest.raises(RemoteProtocolError, match=r"queue\.bind-ok where the answer to no call was due"):
        calls.answer(queue.BindOk())
    calls.add(queue.Declare("q"), "declare")
    with pytest.raises(RemoteProtocolError, match=r"where the answer to queue\.declare was due"):
        calls.answer(queue.BindOk())
    assert calls.clear() == ["declare"]


def test_a_reply_may_overtake_another_call() -> None:
    """RabbitMQ answers basic.consume from the queue's process: a later call's reply may come first and finds its own call."""
    calls: Calls[str] = Calls()
    calls.add(basic.Consume("q"), "consume")
    calls.add(queue.Declare("r"), "declare")
    assert calls.answer(queue.DeclareOk("r", 0, 0)) == "declare"
    assert calls.answer(basic.ConsumeOk("tag")) == "consume"
