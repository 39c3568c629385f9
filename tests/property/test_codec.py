"""The codec under arbitrary input: round trips, every prefix, every flipped byte, and agreement between its two readers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from amqp import serialization as py_amqp  # type: ignore[import-untyped]  # py-amqp has no annotations
from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.methods import METHODS, Method
from leveret.amqp.properties import BasicProperties, decode_header, delivery_facts, encode_header
from leveret.amqp.sasl import build, parse
from leveret.amqp.tables import FieldValue, Table, Timestamp, decode_shortstr, decode_table, encode_shortstr, encode_table
from leveret.amqp.uris import AMQPURL, parse_url
from leveret.errors import ConfigurationError, FrameError, MethodSyntaxError, ReplyError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SHORT_TEXTS = TEXTS.filter(lambda text: len(text.encode()) <= 255)
TIMES = st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)).map(lambda time: time.replace(microsecond=0, fold=0))
FAR_TIMES = st.integers(253402300800, 2**64 - 1).map(Timestamp)
DECIMALS = st.builds(
    lambda unscaled, scale: Decimal(f"{unscaled}E-{scale}"), st.integers(-(2**31), 2**31 - 1), st.integers(0, 255)
)


def containers(values: st.SearchStrategy[FieldValue]) -> st.SearchStrategy[FieldValue]:
    """Return arrays and tables of the values."""
    return st.one_of(st.lists(values, max_size=5), st.dictionaries(SHORT_TEXTS, values, max_size=5))


SCALARS: st.SearchStrategy[FieldValue] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31) - 2, -(2**31) + 2),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(),
    DECIMALS,
    TIMES,
    FAR_TIMES,
)
TABLES: st.SearchStrategy[Table] = st.dictionaries(SHORT_TEXTS, st.recursive(SCALARS, containers, max_leaves=15), max_size=6)

ARGUMENTS: dict[str, st.SearchStrategy[object]] = {
    "bool": st.booleans(),
    "str": SHORT_TEXTS,
    "bytes": st.binary(max_size=300),
    "Table": TABLES,
}
# An integer's size is not in its annotation: this many bits fit in every field of that name.
BITS = {
    "version_major": 8,
    "version_minor": 8,
    "frame_max": 32,
    "prefetch_size": 32,
    "message_count": 32,
    "consumer_count": 32,
    "delivery_tag": 64,
}


def arguments_of(method: type[Method]) -> st.SearchStrategy[Method]:
    """Return the method with any arguments."""
    fields = dataclasses.fields(method)  # type: ignore[arg-type]  # every generated method is a dataclass, Method itself is not
    return st.builds(
        method,
        **{
            field.name: ARGUMENTS[str(field.type)] if field.type != "int" else st.integers(0, 2 ** BITS.get(field.name, 16) - 1)
            for field in fields
        },
    )


METHOD_VALUES: st.SearchStrategy[Method] = st.sampled_from(list(METHODS.values())).flatmap(arguments_of)

OCTETS = st.none() | st.integers(0, 255)
SHORT_TEXTS_OR_NONE = st.none() | SHORT_TEXTS
PROPERTIES = st.builds(
    BasicProperties,
    content_type=SHORT_TEXTS_OR_NONE,
    content_encoding=SHORT_TEXTS_OR_NONE,
    headers=st.none() | TABLES,
    delivery_mode=OCTETS,
    priority=OCTETS,
    correlation_id=SHORT_TEXTS_OR_NONE,
    reply_to=SHORT_TEXTS_OR_NONE,
    expiration=SHORT_TEXTS_OR_NONE,
    message_id=SHORT_TEXTS_OR_NONE,
    timestamp=st.none() | TIMES | FAR_TIMES,
    type=SHORT_TEXTS_OR_NONE,
    user_id=SHORT_TEXTS_OR_NONE,
    app_id=SHORT_TEXTS_OR_NONE,
    cluster_id=SHORT_TEXTS_OR_NONE,
)
HEADERS = st.builds(encode_header, st.integers(0, 2**64 - 1), PROPERTIES)

MALFORMED = (FrameError, MethodSyntaxError)


def check_ids(error: ReplyError, index: tuple[int, int]) -> None:
    """Check that an error names the class and method it is about."""
    assert (error.class_id, error.method_id) == index


@st.composite
def damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Return an encoding with one byte replaced, or some bytes in its place."""
    data = draw(originals)
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=4)) + data[at + 1 :]


@given(TABLES)
def test_tables_survive_the_wire(table: Table) -> None:
    """Every table is read as it was written, values and kinds alike."""
    data = encode_table(table)
    decoded, end = decode_table(b"xx" + data + b"rest", 2)
    assert repr(decoded) == repr(table)
    assert end == len(data) + 2


@given(TABLES, st.data())
def test_every_prefix_of_a_table_is_a_frame_error(table: Table, data: st.DataObject) -> None:
    """A table cut off anywhere is 501, never another exception."""
    encoded = encode_table(table)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(FrameError):
        decode_table(encoded[:cut], 0)


@given(st.binary() | st.binary().map(lambda data: len(data).to_bytes(4) + data) | damaged(TABLES.map(encode_table)))
def test_no_bytes_break_the_table_decoder(data: bytes) -> None:
    """Arbitrary and damaged bytes are a table or a documented error; a table read can be written and read again."""
    try:
        table, end = decode_table(data, 0)
    except MALFORMED:
        return
    assert end <= len(data)
    again, _ = decode_table(encode_table(table), 0)
    assert repr(again) == repr(table)


@given(TABLES)
def test_py_amqp_reads_every_table_of_text_and_numbers(table: Table) -> None:
    """An independent decoder finds the names and the structure that we wrote."""
    encoded = encode_table(
        {name: value for name, value in table.items() if isinstance(value, str | int | None) and not isinstance(value, Timestamp)}
    )
    (theirs,), end = py_amqp.loads("F", encoded, 0)
    assert theirs == decode_table(encoded, 0)[0]
    assert end == len(encoded)


@given(SHORT_TEXTS)
def test_short_strings_survive_the_wire(text: str) -> None:
    """Every text of at most 255 bytes is read as it was written; every prefix is 501."""
    data = encode_shortstr(text, "text")
    assert decode_shortstr(data, 0) == (text, len(data))
    for cut in range(len(data)):
        with pytest.raises(FrameError):
            decode_shortstr(data[:cut], 0)


@given(METHOD_VALUES)
def test_methods_survive_the_wire(method: Method) -> None:
    """Every method with any arguments is read as it was written."""
    payload = method.encode()
    assert int.from_bytes(payload[:4]) == method.KEY
    assert repr(METHODS[method.KEY].decode(payload, 4)) == repr(method)


@given(METHOD_VALUES, st.data())
def test_every_prefix_of_a_method_is_a_frame_error(method: Method, data: st.DataObject) -> None:
    """Arguments cut off anywhere are 501 with the method's ids."""
    payload = method.encode()
    if len(payload) == 4:
        return
    cut = data.draw(st.integers(4, len(payload) - 1))
    with pytest.raises(FrameError) as caught:
        type(method).decode(payload[:cut], 4)
    assert (caught.value.class_id, caught.value.method_id) == method.INDEX


@given(st.sampled_from(list(METHODS.values())), st.binary())
def test_no_bytes_break_a_method_decoder(method: type[Method], data: bytes) -> None:
    """Arbitrary bytes are arguments or a documented error with the method's ids."""
    try:
        method.decode(data, 0)
    except MALFORMED as error:
        check_ids(error, method.INDEX)


@given(damaged(METHOD_VALUES.map(lambda method: method.encode())))
def test_no_damage_breaks_a_method_decoder(payload: bytes) -> None:
    """A damaged method is a method or a documented error with the method's ids."""
    method = METHODS.get(int.from_bytes(payload[:4]))
    if method is None:
        return
    try:
        decoded = method.decode(payload, 4)
    except MALFORMED as error:
        check_ids(error, method.INDEX)
    else:
        assert repr(method.decode(decoded.encode(), 4)) == repr(decoded)


@given(st.integers(0, 2**64 - 1), PROPERTIES)
def test_content_headers_survive_the_wire(size: int, properties: BasicProperties) -> None:
    """Body size and properties are read as they were written, and the facts are those of the properties."""
    payload = encode_header(size, properties)
    assert repr(decode_header(payload)) == repr((size, properties))
    assert delivery_facts(payload) == (properties.delivery_mode or 1, properties.priority or 0, properties.expiration)


@given(HEADERS, st.data())
def test_every_prefix_of_a_content_header_is_a_frame_error(payload: bytes, data: st.DataObject) -> None:
    """A content header cut off anywhere is 501 to both readers."""
    cut = data.draw(st.integers(0, len(payload) - 1))
    for read in (decode_header, delivery_facts):
        with pytest.raises(FrameError):
            read(payload[:cut])


@given(st.binary() | st.binary().map(lambda data: encode_header(0, BasicProperties())[:12] + data) | damaged(HEADERS))
def test_no_bytes_break_the_header_readers(payload: bytes) -> None:
    """Both readers raise documented errors only; what can be decoded has the facts found without decoding."""
    facts: tuple[int, int, str | None] | None = None
    try:
        facts = delivery_facts(payload)
    except FrameError as error:
        check_ids(error, (60, 0))
    try:
        _, properties = decode_header(payload)
    except MALFORMED as error:
        check_ids(error, (60, 0))
    else:
        assert facts == (properties.delivery_mode or 1, properties.priority or 0, properties.expiration)


@given(TEXTS, TEXTS, st.sampled_from(["PLAIN", "AMQPLAIN"]))
def test_logins_survive_the_wire(username: str, password: str, mechanism: str) -> None:
    """User name and password are read as they were built, whatever they hold; PLAIN takes no zero byte."""
    try:
        response = build(mechanism, username, password)
    except ConfigurationError:
        assert "\0" in username + password
        return
    assert parse(mechanism, response) == (username, password)


@given(st.sampled_from(["PLAIN", "AMQPLAIN"]), st.binary())
def test_no_bytes_break_the_login(mechanism: str, response: bytes) -> None:
    """Any response is a login or a syntax error."""
    try:
        parse(mechanism, response)
    except MethodSyntaxError as error:
        check_ids(error, (0, 0))


@given(
    st.builds(
        AMQPURL,
        scheme=st.sampled_from(["amqp", "amqps"]),
        host=st.sampled_from(["host", "::1", "10.0.0.1", "broker.example"]),
        port=st.integers(1, 65535),
        username=TEXTS,
        password=TEXTS,
        vhost=TEXTS.filter(bool),
        query=st.dictionaries(TEXTS, TEXTS, max_size=3),
    )
)
def test_urls_are_read_as_they_are_written(url: AMQPURL) -> None:
    """Every user, password, virtual host and query survives the text of the URL."""
    assert parse_url(url.text) == url
    assert parse_url(url.safe) == dataclasses.replace(
        url, password="***", query={key: "***" if key == "password" else value for key, value in url.query.items()}
    )


@given(st.text() | st.text().map(lambda text: f"amqp://{text}"))
def test_no_text_breaks_the_url_parser(text: str) -> None:
    """Any text is a URL or a ConfigurationError."""
    try:
        url = parse_url(text)
    except ConfigurationError:
        return
    assert parse_url(url.text) == url
