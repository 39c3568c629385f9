"""Field tables and short strings: literal bytes per tag, what is refused, and the bytes of pamqp and py-amqp."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pamqp.decode
import pamqp.encode
import pytest
from amqp import serialization as py_amqp  # type: ignore[import-untyped]  # py-amqp has no annotations

from leveret.amqp.tables import (
    NESTING_MAX,
    FieldValue,
    Long,
    Table,
    Timestamp,
    decode_shortstr,
    decode_table,
    encode_shortstr,
    encode_table,
)
from leveret.errors import EncodingError, FrameError, LocalProtocolError, MethodSyntaxError


def table_of(tagged_value: bytes) -> bytes:
    """Return a table with one field ``k``, from the bytes of its tag and value."""
    return (2 + len(tagged_value)).to_bytes(4) + b"\x01k" + tagged_value


WRITTEN: list[tuple[FieldValue, bytes]] = [
    ("é", b"S\x00\x00\x00\x02\xc3\xa9"),
    ("", b"S\x00\x00\x00\x00"),
    (b"\xff\x00", b"x\x00\x00\x00\x02\xff\x00"),
    (True, b"t\x01"),
    (False, b"t\x00"),
    (0, b"I\x00\x00\x00\x00"),
    (-(2**31), b"I\x80\x00\x00\x00"),
    (2**31 - 1, b"I\x7f\xff\xff\xff"),
    (2**31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
    (-(2**31) - 1, b"l\xff\xff\xff\xff\x7f\xff\xff\xff"),
    (2**63 - 1, b"l\x7f\xff\xff\xff\xff\xff\xff\xff"),
    (-(2**63), b"l\x80\x00\x00\x00\x00\x00\x00\x00"),
    (1.5, b"d\x3f\xf8\x00\x00\x00\x00\x00\x00"),
    (Decimal("-12.34"), b"D\x02\xff\xff\xfb\x2e"),
    (datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), b"T\x00\x00\x00\x00\x3b\x9a\xca\x00"),
    (Timestamp(1_700_000_000_000), b"T\x00\x00\x01\x8b\xcf\xe5\x68\x00"),
    (Timestamp(2**64 - 1), b"T\xff\xff\xff\xff\xff\xff\xff\xff"),
    (None, b"V"),
    ([1, "a"], b"A\x00\x00\x00\x0bI\x00\x00\x00\x01S\x00\x00\x00\x01a"),
    ([], b"A\x00\x00\x00\x00"),
    ({"a": True}, b"F\x00\x00\x00\x04\x01at\x01"),
    ({}, b"F\x00\x00\x00\x00"),
]

READ_ONLY: list[tuple[bytes, FieldValue]] = [
    (b"b\xff", -1),
    (b"B\xff", 255),
    (b"s\xff\xfe", -2),
    (b"u\xff\xfe", 65534),
    (b"i\xff\xff\xff\xff", 2**32 - 1),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    (b"l\x00\x00\x00\x00\x00\x00\x00\x05", 5),
    (b"f\x3f\xc0\x00\x00", 1.5),
    (b"t\x07", True),
    (b"S\x00\x00\x00\x02\xff\x00", b"\xff\x00"),
    (b"D\x00\x00\x00\x00\x07", Decimal(7)),
    (b"A\x00\x00\x00\x07S\x00\x00\x00\x02\xff\x00", [b"\xff\x00"]),
]


@pytest.mark.parametrize(("value", "tagged"), WRITTEN)
def test_each_kind_of_value_has_one_form_on_the_wire(value: FieldValue, tagged: bytes) -> None:
    """A value is written with the tag that every client reads, and read back as it was."""
    assert encode_table({"k": value}) == table_of(tagged)
    decoded, end = decode_table(table_of(tagged), 0)
    assert decoded == {"k": value}
    assert type(decoded["k"]) is type(value)
    assert end == len(table_of(tagged))


@pytest.mark.parametrize(("tagged", "value"), READ_ONLY)
def test_tags_that_only_others_write_are_read(tagged: bytes, value: FieldValue) -> None:
    """Every tag RabbitMQ reads is read, with RabbitMQ's meaning of it."""
    assert decode_table(table_of(tagged), 0) == ({"k": value}, len(table_of(tagged)))


@pytest.mark.parametrize(("value", "tagged"), [*WRITTEN, *((value, tagged) for tagged, value in READ_ONLY)])
def test_arrays_hold_every_kind_of_value(value: FieldValue, tagged: bytes) -> None:
    """A tag means the same in an array as in a table."""
    array = b"A" + (2 * len(tagged)).to_bytes(4) + tagged * 2
    assert decode_table(table_of(array), 0)[0] == {"k": [value, value]}


def test_not_a_number_and_infinity_are_doubles() -> None:
    """All doubles of IEEE 754 cross the wire."""
    decoded, _ = decode_table(encode_table({"nan": math.nan, "inf": -math.inf}), 0)
    assert isinstance(decoded["nan"], float)
    assert math.isnan(decoded["nan"])
    assert decoded["inf"] == -math.inf


def test_a_table_ends_where_its_size_says() -> None:
    """Decoding starts at the offset given and returns the offset after the table."""
    buffer = b"..." + table_of(b"V") + b"rest"
    assert decode_table(buffer, 3) == ({"k": None}, len(buffer) - 4)


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    """A repeated name is no error."""
    assert decode_table(b"\x00\x00\x00\x08\x01kt\x00\x01kt\x01", 0)[0] == {"k": True}


def test_a_long_is_written_with_64_bits() -> None:
    """Long fixes the tag l for a value that would fit I, in arrays too."""
    assert encode_table({"k": Long(5)}) == table_of(b"l\x00\x00\x00\x00\x00\x00\x00\x05")
    assert encode_table({"k": [Long(5)]}) == table_of(b"A\x00\x00\x00\x09l\x00\x00\x00\x00\x00\x00\x00\x05")


def test_times_are_sent_in_utc_and_whole_seconds() -> None:
    """A time zone is converted away; parts of a second are cut off, not rounded."""
    cest = timezone(timedelta(hours=2))
    value = datetime(2001, 9, 9, 3, 46, 40, 999_999, tzinfo=cest)
    assert decode_table(encode_table({"k": value}), 0)[0] == {"k": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "must fit in 64 bits"),
        (-(2**63) - 1, "must fit in 64 bits"),
        (datetime(2001, 9, 9), "time zone"),
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "from 1970 on"),
        (Decimal("2147483648"), "32 bits"),
        (Decimal("1E-256"), "255 places"),
        (Decimal("1E+10"), "32 bits"),
        (Decimal("NaN"), "32 bits"),
        (Decimal("Infinity"), "32 bits"),
        (Decimal(10**5000 + 1), "32 bits"),
        ("\ud800", "UTF-8"),
        (object(), "object"),
        ([{"x": {1, 2}}], "set"),
    ],
)
def test_values_without_a_form_are_refused_by_name(value: FieldValue, message: str) -> None:
    """What no tag can carry is an EncodingError that names a field."""
    with pytest.raises(EncodingError, match=message) as caught:
        encode_table({"k": value})
    assert "table field '" in str(caught.value)


def test_positive_exponents_are_written_out() -> None:
    """The wire's decimals have no positive exponent: 2E+3 is sent as 2000."""
    assert encode_table({"k": Decimal("2E+3")}) == table_of(b"D\x00\x00\x00\x07\xd0")


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "\ud800"])
def test_names_of_fields_are_short_strings(name: str) -> None:
    """A name over 255 bytes, or without a UTF-8 form, is our caller's mistake."""
    with pytest.raises(LocalProtocolError, match="name of a table field"):
        encode_table({name: 1})
    assert decode_table(encode_table({"é" * 127: 1}), 0)[0] == {"é" * 127: 1}


def nested(depth: int) -> Table:
    """Return tables inside each other, ``depth`` of them."""
    table: Table = {}
    for _ in range(depth - 1):
        table = {"k": table}
    return table


def test_nesting_has_a_limit() -> None:
    """NESTING_MAX tables or arrays inside each other pass in both directions, one more does not."""
    deepest = encode_table(nested(NESTING_MAX))
    assert decode_table(deepest, 0)[0] == nested(NESTING_MAX)
    with pytest.raises(EncodingError, match="nested"):
        encode_table(nested(NESTING_MAX + 1))
    with pytest.raises(FrameError, match="nested"):
        decode_table(table_of(b"F" + deepest), 0)
    array = b""
    for _ in range(NESTING_MAX):
        array = b"A" + len(array).to_bytes(4) + array
    with pytest.raises(FrameError, match="nested"):
        decode_table(table_of(array), 0)


def test_a_list_inside_itself_is_refused() -> None:
    """A cycle ends at the nesting limit."""
    cycle: list[FieldValue] = []
    cycle.append(cycle)
    with pytest.raises(EncodingError, match="nested"):
        encode_table({"k": cycle})


@pytest.mark.parametrize("tag", [tag for tag in range(256) if tag not in b"STtbBsuIilLfdDAFxV"])
def test_an_unknown_tag_is_a_syntax_error(tag: int) -> None:
    """Every other tag is 502, in a table and in an array."""
    tagged = bytes([tag]) + bytes(8)
    with pytest.raises(MethodSyntaxError, match="unknown field table tag") as caught:
        decode_table(table_of(tagged), 0)
    assert caught.value.reply_code == 502
    with pytest.raises(MethodSyntaxError):
        decode_table(table_of(b"A\x00\x00\x00\x09" + tagged), 0)


@pytest.mark.parametrize(
    "buffer",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\xff\x01kV",
        b"\x00\x00\x00\x01\x00",  # no room for a tag
        b"\x00\x00\x00\x02\x05k",  # the name overruns the table
        b"\x00\x00\x00\x03\x01kt" + b"\x01",  # the value lies after the table
        b"\x00\x00\x00\x07\x01kS\x00\x00\x00\x05hello",  # the string overruns the table but not the buffer
        table_of(b"S\xff\xff\xff\xff"),
        table_of(b"x\x00\x00\x00\x02a"),
        table_of(b"I\x00\x00\x00"),
        table_of(b"t"),
        table_of(b"T\x00"),
        table_of(b"D\x00\x00"),
        table_of(b"F\x00\x00\x00\x01"),
        table_of(b"F\x00\x00\x00\x05\x01kV") + b"\x00\x00",  # the inner table overruns the outer
        table_of(b"F\x00\x00"),
        table_of(b"A\x00\x00\x00\x03I\x00\x00") + b"\x00\x00",  # the item overruns its array
        table_of(b"A\x00\x00\x00\x04t\x01S\x00") + b"\x00" * 8,
    ],
)
def test_whatever_overruns_is_a_frame_error(buffer: bytes) -> None:
    """A size that promises more than there is, at any level, is 501."""
    with pytest.raises(FrameError, match="cannot decode") as caught:
        decode_table(buffer, 0)
    assert caught.value.reply_code == 501


def test_a_name_that_is_no_utf8_is_a_frame_error() -> None:
    """Names are text; RabbitMQ's words for it."""
    with pytest.raises(FrameError, match="Malformed UTF-8 in shortstr"):
        decode_table(b"\x00\x00\x00\x03\x01\xffV", 0)


def test_short_strings_have_one_octet_of_length() -> None:
    """Up to 255 bytes go in and come out."""
    assert encode_shortstr("é", "queue") == b"\x02\xc3\xa9"
    assert encode_shortstr("", "queue") == b"\x00"
    assert encode_shortstr("x" * 255, "queue") == b"\xff" + b"x" * 255
    assert decode_shortstr(b"..\x02\xc3\xa9.", 2) == ("é", 5)
    assert decode_shortstr(b"\xff" + b"x" * 255, 0) == ("x" * 255, 256)


@pytest.mark.parametrize("value", ["x" * 256, "é" * 128, "\udc80"])
def test_a_short_string_that_cannot_be_sent_names_its_field(value: str) -> None:
    """The caller learns which argument was too long."""
    with pytest.raises(LocalProtocolError, match=r"^queue "):
        encode_shortstr(value, "queue")


@pytest.mark.parametrize("buffer", [b"", b"\x01", b"\x05abcd", b"\x01\xff"])
def test_a_short_string_cut_off_or_no_utf8_is_a_frame_error(buffer: bytes) -> None:
    """A peer's malformed short string is 501."""
    with pytest.raises(FrameError):
        decode_shortstr(buffer, 0)


# ------------------------------------------------------------------------------- other implementations

# Values whose form is the same everywhere. Elsewhere pamqp takes the smallest int and single floats, and py-amqp writes
# bytes as S and 64 bits as L.
AGREED: Table = {
    "array": ["a", None, True, {"deep": []}, 100_000],
    "bool": False,
    "int32": -100_000,
    "string": "é" * 300,
    "table": {"a": {"b": {}}, "n": None},
    "void": None,
}


def pamqp_table(table: Table) -> bytes:
    """Encode a table with pamqp, which takes bytes as a bytearray and sorts the fields."""
    theirs = {name: bytearray(value) if isinstance(value, bytes) else value for name, value in table.items()}
    return pamqp.encode.field_table(theirs)  # type: ignore[arg-type]  # its tables are dicts of its own union, which ours fits


def test_pamqp_writes_the_same_bytes() -> None:
    """Where the two choose the same tags, the bytes are equal."""
    table: Table = {
        **AGREED,
        "decimal": Decimal("-12.34"),
        "time": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
        "wide": -(2**40),
    }
    theirs = pamqp_table(table)
    assert encode_table(dict(sorted(table.items()))) == theirs
    assert decode_table(theirs, 0) == (table, len(theirs))


def test_pamqp_and_leveret_read_each_other() -> None:
    """What either writes with a tag of its own the other reads as the same value; singles lose precision in pamqp."""
    table: Table = {"byte": -1, "short": 40_000, "uint": 2**32 - 1, "negative": -30_000, "double": 0.5, "long": 2**40}
    assert decode_table(pamqp_table({**table, "bytes": b"\xff"}), 0)[0] == {**table, "bytes": b"\xff"}
    assert pamqp.decode.field_table(encode_table({**table, "bytes": b"\xff"}))[1] == {**table, "bytes": bytearray(b"\xff")}
    assert decode_table(pamqp_table({"single": 0.1}), 0)[0] == {"single": struct.unpack(">f", b"\x3d\xcc\xcc\xcd")[0]}


def test_py_amqp_writes_the_same_bytes() -> None:
    """Where the two choose the same tags, the bytes are equal."""
    table: Table = {**AGREED, "decimal": Decimal("-12.34"), "double": 0.1, "time": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)}
    theirs = py_amqp.dumps("F", [table])
    assert encode_table(table) == theirs
    assert decode_table(theirs, 0) == (table, len(theirs))


def test_py_amqp_and_leveret_read_each_other() -> None:
    """py-amqp's L is read as 64 bits with a sign, its bytes as a string; it reads our l and x."""
    assert decode_table(py_amqp.dumps("F", [{"n": -(2**40), "bytes": b"abc", "raw": b"\xff"}]), 0)[0] == {
        "n": -(2**40),
        "bytes": "abc",
        "raw": b"\xff",
    }
    ours = encode_table({"n": -(2**40), "raw": b"\xff", "x": [1]})
    (theirs,), end = py_amqp.loads("F", ours, 0)
    assert theirs == {"n": -(2**40), "raw": b"\xff", "x": [1]}
    assert end == len(ours)
