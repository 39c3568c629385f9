"""Where each type of exchange sends a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.tables import FieldValue, Table
from leveret.broker.core.exchange import (
    EXCHANGE_TYPES,
    Binding,
    DirectExchange,
    Exchange,
    FanoutExchange,
    HeadersExchange,
    TopicExchange,
)
from leveret.broker.core.queue import Queue
from leveret.errors import PreconditionFailed


class Target:
    """A destination that only has a name."""

    def __init__(self, name: str) -> None:
        self.name = name


def make(type_: type[Exchange]) -> Exchange:
    """Make an exchange without options."""
    return type_("x", durable=False, auto_delete=False, internal=False, arguments={})


def bind(exchange: Exchange, name: str, routing_key: str = "", arguments: Table | None = None) -> Binding:
    """Bind a new destination of that name."""
    # Exchanges only pass destinations on, they never look into them.
    binding = Binding(exchange, cast(Queue, Target(name)), routing_key, arguments or {})
    exchange.add(binding)
    return binding


def routed(exchange: Exchange, routing_key: str = "", headers: Table | None = None) -> list[str]:
    """Return the names of the destinations, in order of name, each as often as it is named."""
    return sorted(destination.name for destination in exchange.destinations(routing_key, headers or {}))


# ---------------------------------------------------------------------------------------------- direct, fanout


def test_direct_exchange_matches_equal_keys() -> None:
    """A message goes to the bindings with exactly its routing key (AMQP 0-9-1, 3.1.3.1)."""
    exchange = make(DirectExchange)
    for name, key in [("a", "red"), ("b", "red"), ("c", "blue"), ("d", "")]:
        bind(exchange, name, key)
    assert routed(exchange, "red") == ["a", "b"]
    assert routed(exchange, "") == ["d"]
    assert routed(exchange, "re") == []


def test_fanout_exchange_matches_everything() -> None:
    """A message goes to all bindings, whatever its key (AMQP 0-9-1, 3.1.3.2)."""
    exchange = make(FanoutExchange)
    bind(exchange, "a", "red")
    bind(exchange, "b", "blue")
    assert routed(exchange, "green") == ["a", "b"]


@pytest.mark.parametrize("type_", EXCHANGE_TYPES.values())
def test_removed_binding_matches_no_more(type_: type[Exchange]) -> None:
    """What was unbound gets nothing, what stays bound with the same key goes on."""
    exchange = make(type_)
    gone, stays = bind(exchange, "gone", "key"), bind(exchange, "stays", "key")
    exchange.remove(gone)
    assert routed(exchange, "key") == ["stays"]
    exchange.remove(stays)
    assert routed(exchange, "key") == []
    assert not exchange.bindings


def test_bindings_are_equal_by_destination_key_and_arguments() -> None:
    """The same destination may be bound with another key or other arguments (AMQP 0-9-1, 3.1.2)."""
    exchange = make(DirectExchange)
    binding = bind(exchange, "a", "key", {"n": 1})
    assert exchange.find(binding.destination, "key", {"n": 1}) is binding
    assert exchange.find(binding.destination, "key", {}) is None
    assert exchange.find(binding.destination, "other", {"n": 1}) is None
    assert exchange.find(cast(Queue, Target("a")), "key", {"n": 1}) is None


def test_thousands_of_bindings_come_and_go_quickly() -> None:
    """Binding, finding and unbinding take no longer because others are bound too."""
    exchange = make(FanoutExchange)
    bindings = [bind(exchange, str(number)) for number in range(20_000)]
    for binding in reversed(bindings):
        assert exchange.find(binding.destination, "", {}) is binding
        exchange.remove(binding)
    assert not exchange.bindings


# -------------------------------------------------------------------------------------------------------- topic

TOPICS = [
    # RabbitMQ's own table for its topic exchange, in other words: pattern, and the keys that it matches.
    ("a.b.c", ["a.b.c"]),
    ("a.*.c", ["a.b.c", "a..c", "a.x.c"]),
    ("a.#.b", ["a.b", "a.x.b", "a.x.y.b", "a.a.b.b"]),
    ("a.b.b.c", ["a.b.b.c"]),
    ("#", ["", "a", "a.b.c", ".", ".."]),
    ("#.#", ["", "a", "a.b.c", "."]),
    ("*", ["a", "#", "*"]),
    ("*.*", ["a.b", ".", "a.", ".b"]),
    ("*.#", ["a", "a.b", ".", "a.b.c"]),
    ("#.*", ["a", "a.b", ".", "a.b.c"]),
    ("", [""]),
    (".", ["."]),
    ("a.", ["a."]),
    ("..", [".."]),
    ("a.#", ["a", "a.b", "a.", "a.b.c"]),
    ("#.a", ["a", "b.a", "c.b.a", ".a"]),
    ("#.a.#", ["a", "b.a", "a.b", "b.a.b", "a.a"]),
    ("a*", ["a*"]),
]
KEYS = sorted({key for _, keys in TOPICS for key in keys} | {"b", "b.c", "a.b.d", "c.d.e.f"})


def oracle(pattern: list[str], words: list[str]) -> bool:
    """Match word by word, the obvious way."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return oracle(pattern[1:], words) or (bool(words) and oracle(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and oracle(pattern[1:], words[1:])


def words_of(key: str) -> list[str]:
    """Split a key; the empty one has no words."""
    return key.split(".") if key else []


@pytest.mark.parametrize(("pattern", "keys"), TOPICS)
def test_topic_pattern_matches_words(pattern: str, keys: list[str]) -> None:
    """``*`` is one word, also an empty one, ``#`` any number of words, none included (AMQP 0-9-1, 3.1.3.3)."""
    exchange = make(TopicExchange)
    bind(exchange, "q", pattern)
    for key in keys:
        assert routed(exchange, key), key
    for key in KEYS:
        assert bool(routed(exchange, key)) is oracle(words_of(pattern), words_of(key)), key


_words = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=5).map(".".join)


@given(st.lists(_words, max_size=8), st.lists(st.sampled_from(["a", "b", ""]), max_size=6).map(".".join))
def test_topic_trie_is_word_by_word_matching(patterns: list[str], key: str) -> None:
    """A key goes to exactly the patterns that match it word by word, each once."""
    exchange = make(TopicExchange)
    for number, pattern in enumerate(patterns):
        bind(exchange, str(number), pattern)
    expected = sorted(str(number) for number, pattern in enumerate(patterns) if oracle(words_of(pattern), words_of(key)))
    assert routed(exchange, key) == expected


def nodes(exchange: TopicExchange) -> Iterator[object]:
    """Yield the nodes of the trie."""
    waiting = [exchange._root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())


@given(st.lists(_words, max_size=10), st.randoms(use_true_random=False))
def test_unbinding_cleans_the_trie(patterns: list[str], random: object) -> None:
    """When all bindings are gone, in whatever order, only the root is left."""
    exchange = make(TopicExchange)
    assert isinstance(exchange, TopicExchange)
    bindings = [bind(exchange, str(number), pattern) for number, pattern in enumerate(patterns)]
    random.shuffle(bindings)  # type: ignore[attr-defined]  # hypothesis types its Random as object
    for count, binding in enumerate(bindings, start=1):
        exchange.remove(binding)
        assert len(exchange.bindings) == len(bindings) - count
    assert len(list(nodes(exchange))) == 1


def test_many_wildcards_do_not_explode() -> None:
    """Words spread over many ``#`` in many ways are counted once per place, not once per way."""
    exchange = make(TopicExchange)
    bind(exchange, "q", ".".join(["#", "a"] * 12))
    assert routed(exchange, ".".join(["a"] * 60)) == ["q"]
    assert routed(exchange, ".".join(["a"] * 60 + ["b"])) == []


# ------------------------------------------------------------------------------------------------------ headers

HEADERS: Table = {"format": "pdf", "pages": 3, "x-kind": "report"}


@pytest.mark.parametrize(
    ("arguments", "matches"),
    [
        ({"format": "pdf", "pages": 3}, True),
        ({"x-match": "all", "format": "pdf", "pages": 3}, True),
        ({"x-match": "all", "format": "pdf", "pages": 4}, False),
        ({"x-match": "all", "format": "pdf", "author": "me"}, False),
        ({"x-match": "any", "format": "pdf", "pages": 4}, True),
        ({"x-match": "any", "format": "text", "pages": 4}, False),
        # Names that begin with x- are looked at only where the mode says so, and x-match itself never.
        ({"x-match": "all", "format": "pdf", "x-kind": "other"}, True),
        ({"x-match": "all-with-x", "format": "pdf", "x-kind": "other"}, False),
        ({"x-match": "all-with-x", "format": "pdf", "x-kind": "report"}, True),
        ({"x-match": "any", "format": "text", "x-kind": "report"}, False),
        ({"x-match": "any-with-x", "format": "text", "x-kind": "report"}, True),
        # Nothing to look for.
        ({}, True),
        ({"x-match": "all"}, True),
        ({"x-match": "any"}, False),
        # A void value asks only that the header is there.
        ({"x-match": "all", "format": None, "pages": None}, True),
        ({"x-match": "all", "author": None}, False),
        # Values compare exactly: 3 is neither 3.0, nor "3", nor true.
        ({"pages": 3.0}, False),
        ({"pages": "3"}, False),
        ({"pages": True}, False),
    ],
)
def test_headers_exchange_matches_by_headers(arguments: Table, matches: bool) -> None:
    """The binding's arguments say which headers, x-match how many of them (RabbitMQ, headers exchange)."""
    exchange = make(HeadersExchange)
    bind(exchange, "q", "ignored", arguments)
    assert bool(routed(exchange, "any.key", HEADERS)) is matches


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("foo", 'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x'),
        (1, "Invalid x-match field type signedint (value 1); expected longstr"),
        (True, "Invalid x-match field type bool (value true); expected longstr"),
        (None, "Invalid x-match field type void (value undefined); expected longstr"),
    ],
)
def test_wrong_x_match_is_refused(value: FieldValue, text: str) -> None:
    """An x-match that means nothing is a failed precondition, and nothing is bound (RabbitMQ, headers exchange)."""
    exchange = make(HeadersExchange)
    with pytest.raises(PreconditionFailed) as caught:
        bind(exchange, "q", "", {"x-match": value})
    assert caught.value.reply_text == f"PRECONDITION_FAILED - {text}"
    assert not exchange.bindings
    assert routed(exchange) == []
