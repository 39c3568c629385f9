"""The header of a dead-lettered message, and the rule against circles."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

from leveret.amqp.properties import BasicProperties, body_size, decode_header, encode_header
from leveret.amqp.tables import Table
from leveret.broker.core.dead_letter import dead_lettered_header, died_in

NOW_S = 1_800_000_000.75


def die(header: bytes, queue: str = "q", reason: str = "rejected", *, now_s: float = NOW_S, keeps_cc: bool = True) -> bytes:
    """Dead-letter once and return the new header."""
    return dead_lettered_header(
        header, queue=queue, reason=reason, exchange="x", routing_key="key", keeps_cc=keeps_cc, now_s=now_s
    )[0]


def header_of(**properties: Any) -> bytes:
    """Encode the header of a five-byte body."""
    return encode_header(5, BasicProperties(**properties))


def headers_in(header: bytes) -> Table:
    """Decode the headers."""
    return decode_header(header)[1].headers or {}


def deaths_in(header: bytes) -> list[Table]:
    """Decode x-death."""
    deaths = headers_in(header)["x-death"]
    assert isinstance(deaths, list)
    return deaths  # type: ignore[return-value]  # an array of tables, or the tests that use it fail


def test_first_death_is_described() -> None:
    """One table for queue and reason, with when and from where, and the first and last death in plain headers."""
    header = die(header_of(headers={"mine": "kept"}, message_id="id"))
    assert headers_in(header) == {
        "mine": "kept",
        "x-death": [
            {
                "count": 1,
                "reason": "rejected",
                "queue": "q",
                "time": datetime.fromtimestamp(1_800_000_000, UTC),
                "exchange": "x",
                "routing-keys": ["key"],
            }
        ],
        "x-first-death-queue": "q",
        "x-first-death-reason": "rejected",
        "x-first-death-exchange": "x",
        "x-last-death-queue": "q",
        "x-last-death-reason": "rejected",
        "x-last-death-exchange": "x",
    }
    assert decode_header(header)[1].message_id == "id"
    assert body_size(header) == 5


def test_count_is_a_64_bit_integer_on_the_wire() -> None:
    """Clients find ``l`` as RabbitMQ writes it, in every death, each time it is written."""
    once = die(header_of())
    assert b"\x05countl" + struct.pack(">q", 1) in once
    twice = die(once, queue="other")
    assert twice.count(b"\x05countl" + struct.pack(">q", 1)) == 2


def test_same_queue_and_reason_are_counted() -> None:
    """A repeated death raises the count and comes to the front; its time stays that of the first."""
    header = die(die(die(header_of(), "a"), "b"), "a", now_s=NOW_S + 60)
    assert [(death["queue"], death["count"]) for death in deaths_in(header)] == [("a", 2), ("b", 1)]
    assert deaths_in(header)[0]["time"] == datetime.fromtimestamp(1_800_000_000, UTC)


def test_another_reason_is_another_death() -> None:
    """Deaths are told apart by queue and reason, newest first."""
    header = die(die(header_of(), "a", "expired"), "a", "rejected")
    assert [(death["queue"], death["reason"]) for death in deaths_in(header)] == [("a", "rejected"), ("a", "expired")]
    assert headers_in(header)["x-first-death-reason"] == "expired"
    assert headers_in(header)["x-last-death-reason"] == "rejected"


def test_expiration_is_taken_away_and_kept_on_record() -> None:
    """The message must not expire again where it goes; what it had is in its death."""
    header = die(header_of(expiration="20"), reason="expired")
    assert decode_header(header)[1].expiration is None
    assert deaths_in(header)[0]["original-expiration"] == "20"


def test_copies_are_on_record_and_go_on_under_the_old_keys_only() -> None:
    """The death lists the keys of CC; a dead-letter routing key replaces all old ones, CC included (RabbitMQ, dlx)."""
    sent = header_of(headers={"CC": ["copy", "other"]})
    kept = die(sent)
    assert deaths_in(kept)[0]["routing-keys"] == ["key", "copy", "other"]
    assert headers_in(kept)["CC"] == ["copy", "other"]
    replaced = die(sent, keeps_cc=False)
    assert deaths_in(replaced)[0]["routing-keys"] == ["key", "copy", "other"]
    assert "CC" not in headers_in(replaced)


def test_what_a_client_sent_as_x_death_does_no_harm() -> None:
    """An x-death that is not RabbitMQ's format is replaced, or kept as far as it is."""
    assert len(deaths_in(die(header_of(headers={"x-death": "nonsense"})))) == 1
    assert len(deaths_in(die(header_of(headers={"x-death": [1, {"queue": "q", "reason": "rejected", "count": "x"}]})))) == 1
    assert deaths_in(die(header_of(headers={"x-death": [{"queue": "q", "reason": "rejected", "count": "x"}]})))[0]["count"] == 1


def test_headers_that_nobody_can_read_are_dropped() -> None:
    """A table that cannot be decoded does not keep its message from being dead-lettered; mode and priority stay."""
    table = b"\x01aZ\x00"  # no such tag
    bad = struct.pack(">HHQH", 60, 0, 5, 0x2000 | 0x1000 | 0x0800) + struct.pack(">I", len(table)) + table + b"\x02\x07"
    header = die(bad)
    _, properties = decode_header(header)
    assert (properties.delivery_mode, properties.priority) == (2, 7)
    assert len(deaths_in(header)) == 1
    assert body_size(header) == 5


def test_a_circle_of_expiries_ends() -> None:
    """A message does not go back to a queue it died in unless it was rejected on the way (RabbitMQ, dlx)."""
    header = die(die(header_of(), "a", "expired"), "b", "expired")
    deaths = deaths_in(header)
    assert died_in("a", deaths)
    assert died_in("b", deaths)
    assert not died_in("c", deaths)


def test_a_rejection_makes_a_circle_meant() -> None:
    """A consumer that rejects has had a say: retry ladders go round as often as they like."""
    deaths = deaths_in(die(die(header_of(), "a", "expired"), "b", "rejected"))
    assert not died_in("a", deaths)
    assert not died_in("b", deaths)


def test_an_old_rejection_does_not_excuse_a_new_circle() -> None:
    """Only what lies between this death and the last one in that queue counts."""
    deaths = deaths_in(die(die(header_of(), "a", "rejected"), "b", "expired"))
    assert died_in("b", deaths)
    assert not died_in("a", deaths)
