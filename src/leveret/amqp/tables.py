"""Field tables, the typed maps of AMQP 0-9-1 (4.2.5.5), and the short strings they are made with.

On the wire a table is its size in bytes (4 octets) and then its fields, each a short string, a tag and a value::

    table ── size:4 ── (name:shortstr  tag:1  value)*
    array ── size:4 ── (tag:1  value)*

Tags are those of RabbitMQ, not those printed in the specification (see RabbitMQ's 0-9-1 errata):

====  =============================  ==================  ====  =============================  ==================
tag   on the wire                    in Python           tag   on the wire                    in Python
====  =============================  ==================  ====  =============================  ==================
S     size:4, UTF-8                  str, else bytes     t     1 octet, not 0 is true         bool
x     size:4, bytes                  bytes               V     nothing                        None
I     int32                          int                 T     uint64, seconds since 1970     datetime in UTC
l L   int64                          int                 D     scale:1, int32                 Decimal
b B   int8, uint8                    int                 d f   IEEE 754 double, single        float
s u   int16, uint16                  int                 A     array                          list
i     uint32                         int                 F     table                          dict
====  =============================  ==================  ====  =============================  ==================

All of them are read. Written are S x I l t V T D d A F; never L, which other clients cannot read. A T beyond the year
9999 (milliseconds, sent by mistake) is read as a ``Timestamp``, an int. Of fields with one name the last counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, TypeAlias

from leveret.amqp.constants import SHORTSTR_SIZE_MAX
from leveret.errors import EncodingError, FrameError, LocalProtocolError, MethodSyntaxError

__all__ = [
    "NESTING_MAX",
    "FieldValue",
    "Long",
    "Table",
    "Timestamp",
    "byte_list",
    "decode_longstr",
    "decode_shortstr",
    "decode_table",
    "decode_timestamp",
    "encode_longstr",
    "encode_shortstr",
    "encode_table",
    "encode_timestamp",
]

FieldValue: TypeAlias = "bool | int | float | str | bytes | Decimal | datetime | list[FieldValue] | dict[str, FieldValue] | None"
Table: TypeAlias = dict[str, FieldValue]


class Long(int):
    """An int that is written with 64 bits (``l``) whatever its value, where a peer expects that tag."""


class Timestamp(int):
    """Seconds since 1970 that no datetime holds, being beyond the year 9999; written as a timestamp again."""


NESTING_MAX: Final = 64
"""Tables and arrays inside each other, the outermost table included."""

_BYTES_SHOWN_MAX: Final = 128

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_SECONDS_MAX: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _SECOND

_UINT32: Final = struct.Struct(">I")
_UINT64: Final = struct.Struct(">Q")
_DECIMAL: Final = struct.Struct(">Bi")
_TAGGED_INT32: Final = struct.Struct(">ci")
_TAGGED_INT64: Final = struct.Struct(">cq")
_TAGGED_UINT64: Final = struct.Struct(">cQ")
_TAGGED_DOUBLE: Final = struct.Struct(">cd")
_TAGGED_DECIMAL: Final = struct.Struct(">cBi")
_TAGGED_SIZE: Final = struct.Struct(">cI")

# Numbers by tag: how to read one, and its size.
_NUMBERS: Final[Mapping[int, tuple[Callable[[bytes, int], tuple[int | float]], int]]] = {
    ord(tag): (number.unpack_from, number.size)
    for tag, number in (
        ("I", struct.Struct(">i")),
        ("l", struct.Struct(">q")),
        ("L", struct.Struct(">q")),
        ("d", struct.Struct(">d")),
        ("i", struct.Struct(">I")),
        ("b", struct.Struct(">b")),
        ("B", struct.Struct(">B")),
        ("s", struct.Struct(">h")),
        ("u", struct.Struct(">H")),
        ("f", struct.Struct(">f")),
    )
}


def encode_shortstr(value: str, field: str) -> bytes:
    """Encode a short string: one octet of length, then UTF-8; ``field`` names it in the error.

    Raises ``LocalProtocolError`` when it is longer than 255 bytes or cannot be written as UTF-8.
    """
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{field} cannot be written as UTF-8: {value!r}") from error
    if len(data) > SHORTSTR_SIZE_MAX:
        raise LocalProtocolError(
            f"{field} must be at most {SHORTSTR_SIZE_MAX} bytes as UTF-8, not {len(data)}: {value[:40]!r}..."
        )
    return len(data).to_bytes() + data


def decode_shortstr(buffer: bytes, offset: int) -> tuple[str, int]:
    """Decode the short string at ``offset``; return it and the offset after it. Raises ``FrameError``."""
    start = offset + 1
    if start > len(buffer) or (end := start + buffer[offset]) > len(buffer):
        raise FrameError(f"cannot decode {byte_list(buffer[offset:])}")
    try:
        return buffer[start:end].decode(), end
    except UnicodeDecodeError as error:
        raise FrameError("Malformed UTF-8 in shortstr") from error


def encode_longstr(value: bytes) -> bytes:
    """Encode a long string: four octets of length, then the bytes."""
    return len(value).to_bytes(4) + value


def decode_longstr(buffer: bytes, offset: int) -> tuple[bytes, int]:
    """Decode the long string at ``offset``; return its bytes and the offset after it. Raises ``FrameError``."""
    start = offset + 4
    end = start + int.from_bytes(buffer[offset:start])
    if end > len(buffer):
        raise FrameError(f"cannot decode {byte_list(buffer[offset:])}")
    return buffer[start:end], end


def encode_timestamp(value: datetime | int, field: str) -> int:
    """Return whole seconds since 1970 UTC, as timestamps are sent; ``field`` names it in the error.

    Raises ``EncodingError`` for a datetime without a time zone and for times before 1970.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise EncodingError(f"{field} must be a datetime with a time zone, not {value!r}")
        # Not value.timestamp(): a float near a whole second may round up to it.
        seconds = (value - _EPOCH) // _SECOND
    else:
        seconds = value
    if not 0 <= seconds < 1 << 64:
        raise EncodingError(f"{field} must be a time from 1970 on, not {value!r}")
    return seconds


def decode_timestamp(seconds: int) -> datetime | Timestamp:
    """Return the datetime in UTC, or the number itself when it is beyond the year 9999."""
    if seconds > _SECONDS_MAX:
        return Timestamp(seconds)
    return datetime.fromtimestamp(seconds, UTC)


def encode_table(table: Mapping[str, FieldValue]) -> bytes:
    """Encode a table, its 4 octets of size included.

    Raises ``EncodingError`` for a value that no tag can carry, ``LocalProtocolError`` for a name of more than 255 bytes.
    """
    out = bytearray()
    _write_fields(out, table, 1)
    return bytes(out)


def decode_table(buffer: bytes, offset: int) -> tuple[Table, int]:
    """Decode the table whose size is at ``offset``; return it and the offset after it.

    Raises ``FrameError`` when it is cut off, overruns its size or is nested too deep, ``MethodSyntaxError`` for an unknown tag.
    """
    try:
        (size,) = _UINT32.unpack_from(buffer, offset)
        start = offset + 4
        end = start + size
        if not size:
            return {}, start
        if end > len(buffer):
            raise FrameError(f"cannot decode {byte_list(buffer[offset:])}: a field table of {size} bytes is cut off")
        return _decode_fields(buffer, start, end, 1), end
    except (IndexError, struct.error) as error:
        raise FrameError(f"cannot decode {byte_list(buffer[offset:])}") from error
    except UnicodeDecodeError as error:
        raise FrameError("Malformed UTF-8 in shortstr") from error


def byte_list(data: bytes) -> str:
    """Return the bytes in Erlang's notation, ``<<1,2,3>>``, as RabbitMQ's error texts show them; cut when long."""
    shown = ",".join(map(str, data[:_BYTES_SHOWN_MAX]))
    return f"<<{shown}...>>" if len(data) > _BYTES_SHOWN_MAX else f"<<{shown}>>"


def _decode_fields(buffer: bytes, offset: int, end: int, depth: int) -> Table:
    # The offset only grows, and slices beyond the buffer are cut without an error: one check after the loop finds every
    # overrun. Strings, small ints and booleans are nearly all there is in practice; the rest costs a call.
    begin = offset
    table: Table = {}
    uint32_at = _UINT32.unpack_from
    while offset < end:
        tag_at = offset + 1 + buffer[offset]
        name = buffer[offset + 1 : tag_at].decode()
        tag = buffer[tag_at]
        if tag == 83:  # S
            start = tag_at + 5
            offset = start + uint32_at(buffer, tag_at + 1)[0]
            text = buffer[start:offset]
            try:
                table[name] = text.decode()
            except UnicodeDecodeError:
                table[name] = text
        elif tag == 86:  # V
            table[name] = None
            offset = tag_at + 1
        elif tag == 116:  # t
            table[name] = buffer[tag_at + 1] != 0
            offset = tag_at + 2
        else:
            table[name], offset = _decode_value(buffer, tag_at, end, depth)
    if offset > end:
        raise FrameError(f"cannot decode {byte_list(buffer[begin:end])}: a field overruns its table")
    return table


def _decode_items(buffer: bytes, offset: int, end: int, depth: int) -> list[FieldValue]:
    begin = offset
    items: list[FieldValue] = []
    while offset < end:
        item, offset = _decode_value(buffer, offset, end, depth)
        items.append(item)
    if offset > end:
        raise FrameError(f"cannot decode {byte_list(buffer[begin:end])}: an item overruns its array")
    return items


def _decode_value(buffer: bytes, offset: int, end: int, depth: int) -> tuple[FieldValue, int]:
    """Decode the tag at ``offset`` and its value, which may overrun ``end``: the caller looks at the offset returned."""
    tag = buffer[offset]
    offset += 1
    number = _NUMBERS.get(tag)
    if number is not None:
        unpack_from, size = number
        return unpack_from(buffer, offset)[0], offset + size
    match tag:
        case 83:  # S
            start = offset + 4
            stop = start + int.from_bytes(buffer[offset:start])
            try:
                return buffer[start:stop].decode(), stop
            except UnicodeDecodeError:
                return buffer[start:stop], stop
        case 116:  # t
            return buffer[offset] != 0, offset + 1
        case 86:  # V
            return None, offset
        case 70 | 65:  # F, A
            start = offset + 4
            stop = start + int.from_bytes(buffer[offset:start])
            if stop > end:
                raise FrameError(f"cannot decode {byte_list(buffer[offset - 1 : end])}: it overruns the table around it")
            if depth >= NESTING_MAX:
                raise FrameError(f"cannot decode a field table nested more than {NESTING_MAX} deep")
            if tag == 70:
                return _decode_fields(buffer, start, stop, depth + 1), stop
            return _decode_items(buffer, start, stop, depth + 1), stop
        case 84:  # T
            return decode_timestamp(_UINT64.unpack_from(buffer, offset)[0]), offset + 8
        case 120:  # x
            start = offset + 4
            stop = start + int.from_bytes(buffer[offset:start])
            return buffer[start:stop], stop
        case 68:  # D
            scale, unscaled = _DECIMAL.unpack_from(buffer, offset)
            return Decimal(f"{unscaled}E-{scale}"), offset + 5  # exact, whatever the decimal context
        case _:
            raise MethodSyntaxError(f"unknown field table tag {chr(tag)!r} ({tag})")


def _write_fields(out: bytearray, table: Mapping[str, FieldValue], depth: int) -> None:
    """Append a table, its size included."""
    size_at = len(out)
    out += b"\x00\x00\x00\x00"
    for name, value in table.items():
        try:
            data = name.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"the name of a table field cannot be written as UTF-8: {name!r}") from error
        if len(data) > SHORTSTR_SIZE_MAX:
            raise LocalProtocolError(f"the name of a table field must be at most {SHORTSTR_SIZE_MAX} bytes: {name[:40]!r}...")
        out.append(len(data))
        out += data
        if value is None:
            out += b"V"
        else:
            _write_value(out, name, value, depth)
    _UINT32.pack_into(out, size_at, len(out) - size_at - 4)


def _write_value(out: bytearray, name: str, value: FieldValue, depth: int) -> None:
    """Append tag and value; ``name`` is the field's, for errors."""
    if isinstance(value, str):
        try:
            data = value.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(f"table field {name!r} cannot be written as UTF-8: {value!r}") from error
        out += _TAGGED_SIZE.pack(b"S", len(data))
        out += data
    elif isinstance(value, bool):
        out += b"t\x01" if value else b"t\x00"
    elif isinstance(value, int):
        if isinstance(value, Timestamp):
            out += _TAGGED_UINT64.pack(b"T", encode_timestamp(value, f"table field {name!r}"))
        elif -0x80000000 <= value < 0x80000000 and not isinstance(value, Long):
            out += _TAGGED_INT32.pack(b"I", value)
        elif -0x8000000000000000 <= value < 0x8000000000000000:
            out += _TAGGED_INT64.pack(b"l", value)
        else:
            raise EncodingError(f"table field {name!r} must fit in 64 bits with a sign, not {value}")
    elif value is None:
        out += b"V"
    elif isinstance(value, float):
        out += _TAGGED_DOUBLE.pack(b"d", value)
    elif isinstance(value, dict):
        _check_depth(name, depth)
        out += b"F"
        _write_fields(out, value, depth + 1)
    elif isinstance(value, list | tuple):
        _check_depth(name, depth)
        out += b"A\x00\x00\x00\x00"
        start = len(out)
        for item in value:
            _write_value(out, name, item, depth + 1)
        _UINT32.pack_into(out, start - 4, len(out) - start)
    elif isinstance(value, bytes | bytearray):
        out += _TAGGED_SIZE.pack(b"x", len(value))
        out += value
    elif isinstance(value, datetime):
        out += _TAGGED_UINT64.pack(b"T", encode_timestamp(value, f"table field {name!r}"))
    elif isinstance(value, Decimal):
        out += _encode_decimal(name, value)
    else:
        raise EncodingError(f"table field {name!r} has no form in AMQP: {type(value).__name__}")


def _encode_decimal(name: str, value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    # An exponent that is no int stands for infinity or no number; one above zero is written out, but only as far as 32 bits go.
    if isinstance(exponent, int) and -255 <= exponent <= 10 and len(digits) <= 10:
        unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
        if sign:
            unscaled = -unscaled
        if -0x80000000 <= unscaled < 0x80000000:
            return _TAGGED_DECIMAL.pack(b"D", max(-exponent, 0), unscaled)
    raise EncodingError(f"table field {name!r} must be a decimal of at most 32 bits and 255 places, not {value}")


def _check_depth(name: str, depth: int) -> None:
    if depth >= NESTING_MAX:
        raise EncodingError(f"table field {name!r} is nested more than {NESTING_MAX} deep")
