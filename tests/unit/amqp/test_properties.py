"""Content headers: literal bytes, what is refused, the facts a broker reads, and the bytes of pamqp and py-amqp."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pamqp.commands
import pamqp.header
import pytest
from amqp.basic_message import Message  # type: ignore[import-untyped]  # py-amqp has no annotations

from leveret.amqp.properties import BasicProperties, body_size, decode_header, delivery_facts, encode_header
from leveret.amqp.tables import Table, Timestamp
from leveret.errors import EncodingError, FrameError, LocalProtocolError, MethodSyntaxError

HEADERS: Table = {"id": "4711", "retries": 70_000, "timelimit": [None, None], "stamps": {}, "ignore_result": False}
FULL = BasicProperties(
    content_type="application/json",
    content_encoding="utf-8",
    headers=HEADERS,
    delivery_mode=2,
    priority=9,
    correlation_id="c",
    reply_to="r",
    expiration="60000",
    message_id="m",
    timestamp=datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    type="t",
    user_id="u",
    app_id="a",
    cluster_id="x",
)
NAMES = [field.name for field in dataclasses.fields(BasicProperties)]


def header(flags: int, data: bytes = b"", *, class_id: int = 60, weight: int = 0, size: int = 0) -> bytes:
    """Return the payload of a content header frame."""
    return class_id.to_bytes(2) + weight.to_bytes(2) + size.to_bytes(8) + flags.to_bytes(2) + data


def one(name: str, value: object) -> BasicProperties:
    """Return properties with one of them set."""
    properties = BasicProperties()
    setattr(properties, name, value)
    return properties


def only(name: str) -> BasicProperties:
    """Return properties with one of them set, as in FULL."""
    return one(name, getattr(FULL, name))


LITERAL: list[tuple[BasicProperties, bytes]] = [
    (BasicProperties(), header(0)),
    (BasicProperties(content_type="text/plain"), header(0x8000, b"\x0atext/plain")),
    (BasicProperties(content_encoding=""), header(0x4000, b"\x00")),
    (BasicProperties(headers={}), header(0x2000, b"\x00\x00\x00\x00")),
    (BasicProperties(headers={"a": True}), header(0x2000, b"\x00\x00\x00\x04\x01at\x01")),
    (BasicProperties(delivery_mode=2), header(0x1000, b"\x02")),
    (BasicProperties(priority=255), header(0x0800, b"\xff")),
    (BasicProperties(correlation_id="c"), header(0x0400, b"\x01c")),
    (BasicProperties(reply_to="r"), header(0x0200, b"\x01r")),
    (BasicProperties(expiration="10"), header(0x0100, b"\x0210")),
    (BasicProperties(message_id="m"), header(0x0080, b"\x01m")),
    (only("timestamp"), header(0x0040, b"\x00\x00\x00\x00\x3b\x9a\xca\x00")),
    (BasicProperties(timestamp=Timestamp(1_700_000_000_000)), header(0x0040, b"\x00\x00\x01\x8b\xcf\xe5\x68\x00")),
    (BasicProperties(type="t"), header(0x0020, b"\x01t")),
    (BasicProperties(user_id="u"), header(0x0010, b"\x01u")),
    (BasicProperties(app_id="a"), header(0x0008, b"\x01a")),
    (BasicProperties(cluster_id="é"), header(0x0004, b"\x02\xc3\xa9")),
    (BasicProperties(delivery_mode=1, priority=0, app_id="a"), header(0x1808, b"\x01\x00\x01a")),
]


@pytest.mark.parametrize(("properties", "payload"), LITERAL)
def test_headers_have_the_bytes_of_the_specification(properties: BasicProperties, payload: bytes) -> None:
    """Each property has its flag, and those set follow in the order of their flags."""
    assert encode_header(0, properties) == payload
    assert decode_header(payload) == (0, properties)


def test_the_size_of_the_body_comes_first() -> None:
    """The header carries 64 bits of body size; reading them needs no decoding."""
    payload = encode_header(2**40 + 1, FULL)
    assert decode_header(payload) == (2**40 + 1, FULL)
    assert body_size(payload) == 2**40 + 1
    assert body_size(header(0, size=2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize("size", [0, 13])
def test_a_header_without_its_fixed_part_has_no_size(size: int) -> None:
    """Below 14 bytes there is no content header."""
    for read in (body_size, decode_header, delivery_facts):
        with pytest.raises(FrameError) as caught:
            read(header(0)[:size])
        assert caught.value.class_id == 60


@pytest.mark.parametrize(
    ("properties", "facts"),
    [
        (BasicProperties(), (1, 0, None)),
        (BasicProperties(delivery_mode=2), (2, 0, None)),
        (BasicProperties(delivery_mode=0), (1, 0, None)),
        (BasicProperties(priority=7, correlation_id="c"), (1, 7, None)),
        (BasicProperties(expiration=""), (1, 0, "")),
        (FULL, (2, 9, "60000")),
        (dataclasses.replace(FULL, expiration=None), (2, 9, None)),
        (dataclasses.replace(FULL, headers={"long": "x" * 70_000}), (2, 9, "60000")),
    ],
)
def test_delivery_facts_are_found_without_decoding(properties: BasicProperties, facts: tuple[int, int, str | None]) -> None:
    """Delivery mode, priority and expiration are read past whatever stands around them."""
    assert delivery_facts(encode_header(5, properties)) == facts


@pytest.mark.parametrize("name", NAMES)
def test_delivery_facts_skip_each_property(name: str) -> None:
    """Any single property set is skipped or read at its right size."""
    properties = only(name)
    expected = (properties.delivery_mode or 1, properties.priority or 0, properties.expiration)
    assert delivery_facts(encode_header(0, properties)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        header(0x0001),
        header(0x0002),
        header(0x8001, b"\x01a\x00\x00"),
        header(0, b"\x00"),
        header(0x8000, b"\x01ab"),
        header(0x8000),
        header(0x8000, b"\x02a"),
        header(0x2000, b"\x00\x00"),
        header(0x2000, b"\x00\x00\x00\x09\x01kV"),
        header(0x2000, b"\xff\xff\xff\xff"),
        header(0x1000),
        header(0x0800),
        header(0x0100, b"\x05123"),
        header(0x0100, b"\x01\xff"),
        header(0x0040, b"\x00\x00\x00"),
        header(0x0004, b"\x01"),
    ],
)
def test_malformed_headers_are_a_frame_error(payload: bytes) -> None:
    """Cut off, too long, a flag that means nothing, or a second word of flags: 501 with class 60, decoded or skimmed."""
    for read in (decode_header, delivery_facts):
        with pytest.raises(FrameError) as caught:
            read(payload)
        assert (caught.value.reply_code, caught.value.class_id) == (501, 60)


@pytest.mark.parametrize("payload", [header(0, class_id=50), header(0, weight=1)])
def test_a_header_is_of_class_basic_and_weight_zero(payload: bytes) -> None:
    """Nothing else has properties in 0-9-1."""
    with pytest.raises(FrameError, match="content header"):
        decode_header(payload)


def test_an_unknown_tag_in_the_headers_is_a_syntax_error() -> None:
    """502 with class 60; the broker that only relays the headers does not look."""
    payload = header(0x2000, b"\x00\x00\x00\x03\x01kZ")
    with pytest.raises(MethodSyntaxError) as caught:
        decode_header(payload)
    assert caught.value.class_id == 60
    assert delivery_facts(payload) == (1, 0, None)


@pytest.mark.parametrize(
    "name",
    [
        "content_type",
        "content_encoding",
        "correlation_id",
        "reply_to",
        "expiration",
        "message_id",
        "type",
        "user_id",
        "app_id",
        "cluster_id",
    ],
)
def test_short_strings_too_long_name_the_property(name: str) -> None:
    """The caller learns which property was too long."""
    with pytest.raises(LocalProtocolError, match=f"^{name} must be at most 255 bytes"):
        encode_header(0, one(name, "x" * 256))


@pytest.mark.parametrize("name", ["delivery_mode", "priority"])
@pytest.mark.parametrize("value", [-1, 256])
def test_octets_out_of_range_name_the_property(name: str, value: int) -> None:
    """One octet holds 0 to 255."""
    with pytest.raises(LocalProtocolError, match=f"^{name} must be from 0 to 255"):
        encode_header(0, one(name, value))


def test_values_without_a_form_are_refused() -> None:
    """Headers obey the rules of tables, the timestamp those of times."""
    with pytest.raises(EncodingError, match="'x'"):
        encode_header(0, BasicProperties(headers={"x": 2**64}))
    with pytest.raises(EncodingError, match="timestamp"):
        encode_header(0, BasicProperties(timestamp=datetime(2001, 9, 9)))
    with pytest.raises(LocalProtocolError, match="body size"):
        encode_header(-1, BasicProperties())


# ------------------------------------------------------------------------------- other implementations


def set_in(properties: BasicProperties) -> dict[str, object]:
    """Return the properties that are set, by name."""
    return {name: value for name in NAMES if (value := getattr(properties, name)) is not None}


@pytest.mark.parametrize("name", ["all", *NAMES[:-1]])
def test_pamqp_writes_the_same_bytes(name: str) -> None:
    """The same properties make the same header there, and each side reads the other's; pamqp has no cluster_id."""
    ours = dataclasses.replace(FULL if name == "all" else only(name), cluster_id=None)
    if ours.headers is not None:
        ours.headers = dict(sorted(ours.headers.items()))  # as pamqp sorts them
    values = {"message_type" if name == "type" else name: value for name, value in set_in(ours).items()}
    properties = pamqp.commands.Basic.Properties(**values)  # type: ignore[arg-type]  # by name
    theirs = pamqp.header.ContentHeader(0, 1234, properties)
    assert encode_header(1234, ours) == theirs.marshal()
    assert decode_header(theirs.marshal()) == (1234, ours)
    read = pamqp.header.ContentHeader()
    read.unmarshal(encode_header(1234, ours))
    assert read.body_size == 1234
    for name, value in values.items():
        assert getattr(read.properties, name) == value


@pytest.mark.parametrize("name", ["all", *NAMES])
def test_py_amqp_writes_the_same_bytes(name: str) -> None:
    """The same properties make the same flags and values there, and each side reads the other's."""
    properties = FULL if name == "all" else only(name)
    theirs = {"application_headers" if name == "headers" else name: value for name, value in set_in(properties).items()}
    if "timestamp" in theirs:
        theirs["timestamp"] = 1_000_000_000
    payload = encode_header(0, properties)
    assert Message("", **theirs)._serialize_properties() == payload[12:]
    read = Message()
    read._load_properties(60, payload, 12)
    assert read.properties == theirs
