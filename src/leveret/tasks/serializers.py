"""Python values to JSON and back, in the dialect of Celery's peers.

JSON has no dates, decimals or bytes; Celery writes such a value as ``{"__type__": t, "__value__": v}``, and so do we::

    datetime  {"__type__": "datetime", "__value__": "2026-11-23T08:00:00+00:00"}     date, time alike
    Decimal   {"__type__": "decimal",  "__value__": "1.50"}
    UUID      {"__type__": "uuid",     "__value__": {"hex": "..."}}
    bytes     {"__type__": "bytes",    "__value__": "text"}, or "base64" when they are not UTF-8

Enums are written as their value, dataclasses and msgspec structs as objects of their fields, sets and tuples as arrays,
timedeltas as ISO 8601 durations. What a value was is the receiving parameter's annotation to know (``leveret.tasks.signature``).
NaN and infinities, which JSON lacks too, are written and read as Python's own json module does, for Celery's peers use it.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final
from uuid import UUID

import msgspec

from leveret.errors import EncodingError, MessageError

__all__ = ["BODY_SIZE_BYTES_MAX", "decode_json", "decompress", "encodable", "encode_json"]

BODY_SIZE_BYTES_MAX: Final = 128 * 1024 * 1024
"""The largest body after decompression: as much as a broker takes uncompressed."""

_MARK: Final = b'"__type__"'
_ATOMS: Final = frozenset({str, int, bool, type(None)})
_NATIVE: Final = (bytes, bytearray, datetime, date, time, UUID, Decimal)

_ENCODER: Final = msgspec.json.Encoder()


class _NotANumber(Exception):
    """A float that msgspec would write as null."""


def encode_json(value: object) -> bytes:
    """Encode a value.

    Raises:
        EncodingError: it, or something in it, has no JSON form; the message names the type and where it stands.

    """
    try:
        try:
            return _ENCODER.encode(_form(value, "", exact=True))
        except _NotANumber:
            return json.dumps(_form(value, "", exact=False), ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise EncodingError("a str with half a surrogate pair has no JSON form (it cannot be written as UTF-8)") from error
    except RecursionError as error:
        raise EncodingError(f"a {_name(type(value))} that contains itself, or is nested too deep, has no JSON form") from error
    except ValueError as error:  # an int of more digits than Python writes, or what a class of the user's says of itself
        raise EncodingError(f"a value that has no JSON form: {error}") from error


def encodable(text: str) -> str:
    """Escape halves of surrogate pairs, which UTF-8 cannot carry; file names that are not UTF-8 have them."""
    return text.encode(errors="backslashreplace").decode()


def decode_json(data: bytes) -> object:
    """Decode JSON; ``__type__`` objects become the values they stand for.

    Raises:
        MessageError: not JSON, or a ``__type__`` that is not known.

    """
    value: object
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        value = _decode_as_python(data, error)
    except RecursionError as error:
        raise MessageError("JSON that is nested too deep") from error
    return _revive(value) if _MARK in data else value


def decompress(data: bytes, compression: str) -> bytes:
    """Undo a message's ``compression`` header; ``application/x-gzip`` is, despite its name, zlib's format.

    Raises:
        MessageError: another compression, broken data, or more than ``BODY_SIZE_BYTES_MAX`` of it.

    """
    if compression != "application/x-gzip":
        raise MessageError(f"a body compressed as {compression!r}; this version reads application/x-gzip (zlib)")
    expander = zlib.decompressobj()
    try:
        body = expander.decompress(data, BODY_SIZE_BYTES_MAX)
    except zlib.error as error:
        raise MessageError(f"a compressed body that cannot be read: {error}") from error
    if expander.unconsumed_tail:
        raise MessageError(f"a compressed body of more than {BODY_SIZE_BYTES_MAX} bytes")
    if not expander.eof:
        raise MessageError("a compressed body that is cut off")
    return body


def _form(value: object, place: str, *, exact: bool) -> object:
    """Return what msgspec writes as we want it; raise ``_NotANumber`` for a float it cannot, if ``exact``."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, float):
        if exact and not math.isfinite(value):
            raise _NotANumber
        return float(value)
    if isinstance(value, list | tuple):
        return [item if type(item) in _ATOMS else _form(item, f"{place}[{at}]", exact=exact) for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            key if type(key) is str else _key(key, place): item
            if type(item) in _ATOMS
            else _form(item, f"{place}[{key!r}]", exact=exact)
            for key, item in value.items()
        }
    marked = _marked(value)
    if marked is not None:
        return marked
    return _form(_plain(value, place), place, exact=exact)


def _marked(value: object) -> Mapping[str, object] | None:
    """Return Celery's form of a value that JSON lacks, None for any other. A datetime is a date too, so it comes first."""
    match value:
        case datetime():
            return {"__type__": "datetime", "__value__": value.isoformat()}
        case date():
            return {"__type__": "date", "__value__": value.isoformat()}
        case time():
            return {"__type__": "time", "__value__": value.isoformat()}
        case Decimal():
            return {"__type__": "decimal", "__value__": str(value)}
        case UUID():
            return {"__type__": "uuid", "__value__": {"hex": value.hex}}
        case bytes() | bytearray() | memoryview():
            data = bytes(value)
            try:
                return {"__type__": "bytes", "__value__": data.decode()}
            except UnicodeDecodeError:
                return {"__type__": "base64", "__value__": base64.b64encode(data).decode()}
        case _:
            return None


def _plain(value: object, place: str) -> object:
    """Take one level off: enums, dataclasses, structs, sets and subclasses of the plain types."""
    if isinstance(value, Enum):
        return value.value
    try:
        return msgspec.to_builtins(value, builtin_types=_NATIVE, enc_hook=_plain_subclass)
    except (EncodingError, TypeError) as error:
        raise EncodingError(f"{error}{_at(place)}") from None


def _plain_subclass(value: object) -> object:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise EncodingError(f"{_name(type(value))} has no JSON form")


def _key(key: object, place: str) -> str:
    """Return an object's key: JSON has only strings there, and the annotation says what it was."""
    match key:
        case Enum():
            return _key(key.value, place)
        case str():
            return str.__str__(key)
        case int() | float() | UUID() if not isinstance(key, bool):
            return str(key)
        case date():
            return key.isoformat()
        case _:
            raise EncodingError(f"a dict with a key of type {_name(type(key))} has no JSON form{_at(place)}")


def _decode_as_python(data: bytes, reason: Exception) -> object:
    """Read what Python's json module writes and strict JSON lacks: NaN, Infinity, numbers beyond a double."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise MessageError(f"not JSON: {reason}") from reason


def _revive(value: object) -> object:
    if isinstance(value, list):
        return [_revive(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__type__", "__value__"}:
        return _unmark(value["__type__"], value["__value__"])
    return {key: _revive(item) for key, item in value.items()}


def _unmark(mark: object, value: object) -> object:
    try:
        match mark, value:
            case "datetime", str():
                return datetime.fromisoformat(value)
            case "date", str():
                return datetime.fromisoformat(value).date()
            case "time", str():
                return time.fromisoformat(value)
            case "decimal", str():
                return Decimal(value)
            case "uuid", {"hex": str(digits)}:
                return UUID(hex=digits)
            case "bytes", str():
                return value.encode()
            case "base64", str():
                return base64.b64decode(value, validate=True)
            case _:
                raise MessageError(f"an unknown value {{'__type__': {mark!r}, '__value__': {str(value)[:80]!r}}}")
    except (ValueError, InvalidOperation) as error:
        raise MessageError(f"a {mark} that cannot be read: {str(value)[:80]!r}") from error


def _at(place: str) -> str:
    return f" (at {place})" if place else ""


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
