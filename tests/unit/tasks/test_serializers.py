"""Values to JSON and back, ours against kombu's."""

from __future__ import annotations

import bz2
import enum
import math
import uuid
import zlib
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from leveret.errors import EncodingError, MessageError
from leveret.tasks.serializers import BODY_SIZE_BYTES_MAX, decode_json, decompress, encode_json

MOMENT = datetime(2026, 11, 23, 8, 30, 1, 250000, tzinfo=UTC)

MARKED = [
    MOMENT,
    MOMENT.replace(tzinfo=None),
    MOMENT.date(),
    time(8, 30, 1),
    Decimal("1.50"),
    uuid.UUID("8c1d7b9e-5f0b-4b7e-9d5c-1c1c5c0e8a11"),
    b"text",
    b"\xff\x00",
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


class Colour(enum.Enum):
    """An enum of text."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum that is a number."""

    HIGH = 9


class Text(str):
    """A subclass, as libraries like to return them."""


@dataclass
class Order:
    """A dataclass with a date and a set."""

    number: int
    due: datetime
    tags: set[str]


class Item(msgspec.Struct, rename="camel"):
    """A struct whose fields have other names outside."""

    unit_price: Decimal


class Opaque:
    """Something without a JSON form."""


@given(json_values)
def test_json_values_come_back_as_they_were(value: object) -> None:
    """What JSON can hold is equal after a round trip, whole numbers of any size included."""
    assert decode_json(encode_json(value)) == value


@given(json_values)
def test_kombu_reads_what_we_write(value: object) -> None:
    """Celery's decoder finds the same values in our JSON."""
    assert kombu_json.loads(encode_json(value)) == value


@pytest.mark.parametrize("value", MARKED, ids=lambda value: type(value).__name__)
def test_values_that_json_lacks_travel_as_celerys_do(value: object) -> None:
    """Dates, decimals, UUIDs and bytes are written as kombu writes them, and each side reads the other's."""
    ours = encode_json({"value": [value]})
    assert decode_json(ours) == {"value": [value]}
    assert kombu_json.loads(ours) == {"value": [value]}
    assert decode_json(kombu_json.dumps({"value": [value]}).encode()) == {"value": [value]}
    assert msgspec.json.decode(ours) == msgspec.json.decode(kombu_json.dumps({"value": [value]}))


def test_other_values_travel_as_their_plain_form() -> None:
    """Enums are their values, structures objects of their fields, sets and tuples arrays, subclasses what they derive from."""
    pair = namedtuple("pair", "x y")
    assert decode_json(encode_json([Colour.RED, Level.HIGH, Text("a"), {1}, (1, 2), pair(1, Level.HIGH)])) == [
        "red",
        9,
        "a",
        [1],
        [1, 2],
        [1, 9],
    ]
    assert decode_json(encode_json(Order(1, MOMENT, {"a"}))) == {"number": 1, "due": MOMENT, "tags": ["a"]}
    assert decode_json(encode_json(Item(Decimal("2.5")))) == {"unitPrice": Decimal("2.5")}
    assert decode_json(encode_json(OrderedDict(a=timedelta(days=1)))) == {"a": "P1D"}


def test_keys_become_text() -> None:
    """An object's keys are strings: numbers, enums, dates and UUIDs are written as theirs."""
    key = uuid.UUID(int=1)
    encoded = encode_json({1: 0, 1.5: 0, Colour.RED: 0, Text("t"): 0, date(2026, 1, 2): 0, key: 0})
    assert decode_json(encoded) == dict.fromkeys(["1", "1.5", "red", "t", "2026-01-02", str(key)], 0)


def test_floats_that_json_lacks_travel_as_pythons_json_writes_them() -> None:
    """NaN and the infinities are not lost, though they cost the fast encoder; Celery's peers read them."""
    encoded = encode_json([math.nan, math.inf, -math.inf, MOMENT])
    assert encoded.startswith(b"[NaN,Infinity,-Infinity,")
    decoded = decode_json(encoded)
    assert isinstance(decoded, list)
    assert math.isnan(decoded[0])
    assert decoded[1:] == [math.inf, -math.inf, MOMENT]
    assert kombu_json.loads(encoded)[1:] == decoded[1:]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Opaque(), "Opaque has no JSON form"),
        ({"a": [1, Opaque()]}, "at ['a'][1]"),
        (Order(1, MOMENT, {Opaque()}), "Opaque has no JSON form"),  # type: ignore[arg-type]  # the point of the test
        (1j, "complex has no JSON form"),
        (Opaque, "type has no JSON form"),
        ({(1, 2): 3}, "key of type tuple"),
        ({None: 3}, "key of type NoneType"),
        ({True: 3}, "key of type bool"),
        ("\ud800", "surrogate"),
        ([math.nan, "\ud800"], "surrogate"),
    ],
)
def test_what_has_no_json_form_is_named(value: object, words: str) -> None:
    """The error says which type it is and where it stands."""
    with pytest.raises(EncodingError) as caught:
        encode_json(value)
    assert words in str(caught.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Endless values end in an error, not in a crash."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(EncodingError, match="contains itself"):
        encode_json(endless)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"__type__":"rocket","__value__":1}',
        b'{"__type__":"datetime","__value__":"x"}',
        b'{"__type__":"base64","__value__":"?"}',
        b'{"__type__":"decimal","__value__":"x"}',
        b'{"__type__":[],"__value__":1}',
    ],
)
def test_what_is_not_json_is_a_message_error(data: bytes) -> None:
    """Broken JSON and marks that nobody knows are refused with one kind of error."""
    with pytest.raises(MessageError):
        decode_json(data)


def test_json_that_is_nested_absurdly_is_refused() -> None:
    """Depth is bounded by an error, not by the stack."""
    with pytest.raises(MessageError):
        decode_json(b"[" * 100_000)


def test_an_object_with_further_keys_is_no_mark() -> None:
    """Only an object of just the two keys stands for a value, as in kombu."""
    value = {"__type__": "datetime", "__value__": "x", "more": 1}
    assert decode_json(encode_json(value)) == value


def test_celerys_compression_is_zlib() -> None:
    """``application/x-gzip`` is zlib's format; others are refused by name."""
    assert decompress(zlib.compress(b"abc"), "application/x-gzip") == b"abc"
    with pytest.raises(MessageError, match="application/x-bz2"):
        decompress(bz2.compress(b"abc"), "application/x-bz2")
    with pytest.raises(MessageError, match="cannot be read"):
        decompress(b"abc", "application/x-gzip")
    with pytest.raises(MessageError, match="cut off"):
        decompress(zlib.compress(b"abc")[:-2], "application/x-gzip")


def test_a_compressed_bomb_is_refused() -> None:
    """A body may not grow beyond what a broker would take uncompressed."""
    compressor = zlib.compressobj(9)
    megabyte = bytes(1 << 20)
    bomb = b"".join(compressor.compress(megabyte) for _ in range(BODY_SIZE_BYTES_MAX // len(megabyte) + 1)) + compressor.flush()
    with pytest.raises(MessageError, match=str(BODY_SIZE_BYTES_MAX)):
        decompress(bomb, "application/x-gzip")
