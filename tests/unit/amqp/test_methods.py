"""The generated methods: literal bytes, malformed arguments, the generator, and the bytes of pamqp and py-amqp."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pamqp.base
import pamqp.commands
import pytest
from amqp import serialization as py_amqp  # type: ignore[import-untyped]  # py-amqp has no annotations

from leveret.amqp.methods import METHODS, Method, access, basic, channel, confirm, connection, exchange, queue, tx
from leveret.errors import EncodingError, FrameError, LocalProtocolError, MethodSyntaxError
from tools import generate_methods

ALL = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.NAME)

LITERAL: list[tuple[Method, bytes]] = [
    (connection.Tune(2047, 131072, 60), b"\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c"),
    (connection.Open("v"), b"\x00\x0a\x00\x28\x01v\x00\x00"),
    (connection.OpenOk(), b"\x00\x0a\x00\x29\x00"),
    (connection.Close(320, "bye", 60, 40), b"\x00\x0a\x00\x32\x01\x40\x03bye\x00\x3c\x00\x28"),
    (connection.UpdateSecret(b"s", "r"), b"\x00\x0a\x00\x46\x00\x00\x00\x01s\x01r"),
    (channel.Open(), b"\x00\x14\x00\x0a\x00"),
    (channel.OpenOk(), b"\x00\x14\x00\x0b\x00\x00\x00\x00"),
    (channel.Flow(True), b"\x00\x14\x00\x14\x01"),
    (access.Request(), b"\x00\x1e\x00\x0a\x05/data\x1e"),
    (access.RequestOk(), b"\x00\x1e\x00\x0b\x00\x01"),
    (exchange.Unbind("d", "s", "k"), b"\x00\x28\x00\x28\x00\x00\x01d\x01s\x01k\x00\x00\x00\x00\x00"),
    (exchange.UnbindOk(), b"\x00\x28\x00\x33"),
    (queue.Declare("q", durable=True, no_wait=True), b"\x00\x32\x00\x0a\x00\x00\x01q\x12\x00\x00\x00\x00"),
    (queue.DeclareOk("q", 1, 2), b"\x00\x32\x00\x0b\x01q\x00\x00\x00\x01\x00\x00\x00\x02"),
    (basic.Qos(0, 10, False), b"\x00\x3c\x00\x0a\x00\x00\x00\x00\x00\x0a\x00"),
    (basic.Consume("q", "t", no_ack=True), b"\x00\x3c\x00\x14\x00\x00\x01q\x01t\x02\x00\x00\x00\x00"),
    (basic.Publish("x", "k", mandatory=True), b"\x00\x3c\x00\x28\x00\x00\x01x\x01k\x01"),
    (basic.Deliver("t", 5, True, "x", "k"), b"\x00\x3c\x00\x3c\x01t\x00\x00\x00\x00\x00\x00\x00\x05\x01\x01x\x01k"),
    (basic.GetEmpty(), b"\x00\x3c\x00\x48\x00"),
    (basic.Ack(2**64 - 1, True), b"\x00\x3c\x00\x50\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    (basic.Nack(1), b"\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x01\x02"),
    (confirm.Select(), b"\x00\x55\x00\x0a\x00"),
    (tx.Select(), b"\x00\x5a\x00\x0a"),
]

VALUES: dict[str, object] = {
    "int": 7,
    "str": "Grüße",
    "bytes": b"one two",
    "Table": {"a": "x", "b": {"c": True}, "n": 100_000},
    "bool": False,
}
PLAIN_TEXT_FIELDS = frozenset({"exchange", "queue", "destination", "source", "type"})
"""pamqp takes only names in ASCII here, though the protocol takes any text."""


def fields_of(method: type[Method] | Method) -> tuple[dataclasses.Field[object], ...]:
    """Return the arguments a method has."""
    return dataclasses.fields(method)  # type: ignore[arg-type]  # every generated method is a dataclass, Method itself is not


def samples(method: type[Method]) -> Iterator[Method]:
    """Yield the method with telling values: first all bits off, then each alone, then all on."""
    fields = fields_of(method)
    bits = [field.name for field in fields if field.type == "bool"]
    values = {field.name: VALUES[str(field.type)] for field in fields}
    values.update({name: f"{name}.1" for name in PLAIN_TEXT_FIELDS & values.keys()})
    for lit in ([], *([name] for name in bits), bits):
        yield method(**{**values, **dict.fromkeys(lit, True)})


@pytest.mark.parametrize(("method", "payload"), LITERAL, ids=lambda value: getattr(value, "NAME", ""))
def test_methods_have_the_bytes_of_the_specification(method: Method, payload: bytes) -> None:
    """Ids, then the arguments in order; bits share octets from the lowest on; reserved fields are zero."""
    assert method.encode() == payload
    decoded = METHODS[int.from_bytes(payload[:4])].decode(payload, 4)
    assert type(decoded) is type(method)
    assert decoded == method


@ALL
def test_arguments_survive_the_wire(method: type[Method]) -> None:
    """What is encoded is decoded to an equal method, wherever in the buffer it begins."""
    for sample in samples(method):
        payload = sample.encode()
        assert method.decode(payload, 4) == sample
        assert method.decode(b"before" + payload, 10) == sample


@ALL
def test_facts_agree_with_each_other(method: type[Method]) -> None:
    """INDEX, KEY, NAME and the bytes on the wire name the same method; its replies exist and come from the other side."""
    assert divmod(method.KEY, 1 << 16) == method.INDEX
    assert METHODS[method.KEY] is method
    assert method().encode()[:4] == method.KEY.to_bytes(4)
    assert method.FROM_CLIENT or method.FROM_SERVER
    by_name = {other.NAME: other for other in METHODS.values()}
    for reply in (by_name[name] for name in method.REPLIES):
        assert (reply.FROM_SERVER and method.FROM_CLIENT) or (reply.FROM_CLIENT and method.FROM_SERVER)
        assert not reply.REPLIES


def test_four_methods_carry_content() -> None:
    """Publish, return, deliver and get-ok are followed by a content header."""
    assert {m.NAME for m in METHODS.values() if m.HAS_CONTENT} == {
        "basic.publish",
        "basic.return",
        "basic.deliver",
        "basic.get-ok",
    }


def test_methods_compare_by_value_and_class() -> None:
    """Equal arguments make equal methods, of one class only."""
    assert queue.Declare("a", arguments={"x": 1}) == queue.Declare("a", arguments={"x": 1})
    assert queue.Declare("a") != queue.Declare("b")
    methods: list[Method] = [tx.Commit(), tx.Rollback()]
    assert methods[0] != methods[1]


def test_tables_are_not_shared_between_methods() -> None:
    """Each method without arguments given has a table of its own."""
    queue.Declare().arguments["x-max-priority"] = 10
    assert queue.Declare().arguments == {}


def test_secrets_stay_out_of_the_repr() -> None:
    """A login or a new secret is not shown where a method is printed."""
    for method in (connection.StartOk(response=b"hunter2"), connection.SecureOk(b"hunter2"), connection.UpdateSecret(b"hunter2")):
        assert "hunter2" not in repr(method)


# ---------------------------------------------------------------------------------------- what is refused


@ALL
def test_arguments_cut_off_are_a_frame_error(method: type[Method]) -> None:
    """Whatever prefix arrives, it is 501 with the method's ids."""
    for sample in samples(method):
        payload = sample.encode()
        for end in range(4, len(payload)):
            with pytest.raises(FrameError) as caught:
                method.decode(payload[:end], 4)
            assert (caught.value.class_id, caught.value.method_id) == method.INDEX


@ALL
def test_arguments_with_more_behind_them_are_a_frame_error(method: type[Method]) -> None:
    """RabbitMQ's decoder matches the arguments to the last byte (seen on 3.10.8), and so does ours."""
    with pytest.raises(FrameError, match="cannot decode") as caught:
        method.decode(method().encode() + b"\x00", 4)
    assert (caught.value.class_id, caught.value.method_id) == method.INDEX


def test_cut_off_arguments_are_shown_as_rabbitmq_shows_them() -> None:
    """The text names the bytes in Erlang's notation, cut so that it fits a short string."""
    with pytest.raises(FrameError) as caught:
        basic.Publish.decode(b"\x00\x3c\x00\x28\x00", 4)
    assert caught.value.reply_text == "FRAME_ERROR - cannot decode <<0>>"
    with pytest.raises(FrameError) as caught:
        basic.Qos.decode(b"\x00\x00\x00\x00\x00\x0a\x00\x00", 0)
    assert caught.value.reply_text == "FRAME_ERROR - cannot decode <<0,0,0,0,0,10,0,0>>"  # seen on RabbitMQ 3.10.8
    with pytest.raises(FrameError) as caught:
        basic.Publish.decode(bytes(4) + b"\x7f" * 100, 4)
    assert caught.value.reply_text.startswith("FRAME_ERROR - cannot decode <<127,127,")
    assert len(caught.value.reply_text) == 255


def test_an_unknown_table_tag_is_a_syntax_error_of_the_method() -> None:
    """502 carries the ids of the method whose table it was."""
    payload = queue.Declare("q").encode()[:-4] + b"\x00\x00\x00\x04\x01kZ\x00"
    with pytest.raises(MethodSyntaxError, match="unknown field table tag 'Z'") as caught:
        queue.Declare.decode(payload, 4)
    assert (caught.value.class_id, caught.value.method_id) == (50, 10)


def test_text_that_is_no_utf8_is_a_frame_error_of_the_method() -> None:
    """RabbitMQ's words, with the method's ids."""
    with pytest.raises(FrameError, match="Malformed UTF-8 in shortstr") as caught:
        basic.ConsumeOk.decode(b"\x01\xff", 0)
    assert (caught.value.class_id, caught.value.method_id) == (60, 21)


def test_bits_without_a_meaning_are_ignored() -> None:
    """RabbitMQ reads an octet of bits and looks at those it knows."""
    assert basic.Ack.decode(b"\x00\x00\x00\x00\x00\x00\x00\x01\xfe", 0) == basic.Ack(1, False)


@pytest.mark.parametrize(
    "method",
    [connection.Tune(channel_max=65536), connection.Tune(frame_max=-1), basic.Ack(2**64), basic.Qos(prefetch_count=-1)],
)
def test_numbers_out_of_range_are_our_callers_mistake(method: Method) -> None:
    """An integer that does not fit its field names the method."""
    with pytest.raises(LocalProtocolError, match=method.NAME):
        method.encode()


def test_short_strings_too_long_name_their_field() -> None:
    """The caller learns which argument of which method was too long."""
    with pytest.raises(LocalProtocolError, match=r"^routing_key of basic\.publish must be at most 255 bytes"):
        basic.Publish("", "k" * 256).encode()
    with pytest.raises(EncodingError):
        queue.Declare(arguments={"x": 2**64}).encode()


# -------------------------------------------------------------------------------------------- the generator


def test_the_generated_files_are_the_committed_ones() -> None:
    """Nobody edits generated code by hand, or the table without generating."""
    modules = generate_methods.generate(generate_methods.read_table(generate_methods.TABLE))
    for name, text in modules.items():
        assert (generate_methods.TARGET / name).read_text() == text, f"run tools/generate_methods.py: {name} differs"


# ------------------------------------------------------------------------------- other implementations

PAMQP_NAMES = {"no_wait": "nowait", "type": "exchange_type"}
PAMQP_RESERVED: dict[str, object] = {
    "ticket": 0,
    "capabilities": "",
    "insist": False,
    "known_hosts": "",
    "out_of_band": "",
    "channel_id": "",
    "cluster_id": "",
}
IN_PAMQP = pytest.mark.parametrize(
    "method", [method for key, method in METHODS.items() if key >> 16 != 30], ids=lambda method: method.NAME
)


def pamqp_class(method: type[Method]) -> type[pamqp.base.Frame]:
    """Return pamqp's class of the method; it has all but class access."""
    return pamqp.commands.INDEX_MAPPING[method.KEY]


def pamqp_values(method: Method) -> dict[str, object]:
    """Return the method's arguments under pamqp's names; long strings are text there."""
    values = {field.name: getattr(method, field.name) for field in fields_of(method)}
    return {PAMQP_NAMES.get(k, k): v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def pamqp_marshal(method: Method) -> bytes:
    """Encode the method's arguments with pamqp."""
    theirs = pamqp_class(type(method))()
    for name, value in {**PAMQP_RESERVED, **pamqp_values(method)}.items():
        if name in theirs.attributes():
            setattr(theirs, name, value)
    # Not marshal() itself: it first checks values, among them reserved ones that it wants to be "0".
    theirs.validate = lambda: None  # type: ignore[method-assign]
    return theirs.marshal()


@pytest.mark.filterwarnings("ignore:This command is deprecated")
@IN_PAMQP
def test_pamqp_writes_the_same_bytes(method: type[Method]) -> None:
    """Every method, with every bit alone, has the bytes that pamqp gives it, and is read from them."""
    for sample in samples(method):
        theirs = pamqp_marshal(sample)
        assert sample.encode()[4:] == theirs
        assert method.decode(theirs, 0) == sample


@pytest.mark.filterwarnings("ignore:This command is deprecated")
@IN_PAMQP
def test_pamqp_reads_our_bytes(method: type[Method]) -> None:
    """What we write, pamqp reads as the same values."""
    for sample in samples(method):
        theirs = pamqp_class(method)()
        theirs.unmarshal(sample.encode()[4:])
        for name, value in pamqp_values(sample).items():
            assert getattr(theirs, name) == value, name


@IN_PAMQP
def test_pamqp_knows_the_same_replies(method: type[Method]) -> None:
    """Which methods answer which, and hence which are synchronous, is the same there."""
    theirs = {pamqp_name(name) for name in pamqp_class(method).valid_responses}
    assert theirs == {pamqp_name(reply) for reply in method.REPLIES}
    assert pamqp_class(method).synchronous == bool(method.REPLIES)
    assert pamqp_name(pamqp_class(method).name) == pamqp_name(method.NAME)


def pamqp_name(name: str) -> str:
    """Return a method's name without its way of parting words: ``queue.DeclareOk`` and ``queue.declare-ok`` are one."""
    return name.replace("-", "").lower()


@pytest.mark.parametrize(
    ("method", "form", "arguments"),
    [
        (access.Request("/data", exclusive=True, passive=False), "sbbbbb", ["/data", True, False, True, True, True]),
        (access.RequestOk(1), "B", [1]),
        (connection.StartOk({"a": True}, "PLAIN", b"\0u\0p", "de"), "FsSs", [{"a": True}, "PLAIN", "\0u\0p", "de"]),
        (connection.TuneOk(1, 2, 3), "BlB", [1, 2, 3]),
        (connection.Close(320, "é", 1, 2), "BsBB", [320, "é", 1, 2]),
        (
            exchange.Declare("x", "topic", durable=True, internal=True, arguments={"alternate-exchange": "y"}),
            "BssbbbbbF",
            [0, "x", "topic", False, True, False, True, False, {"alternate-exchange": "y"}],
        ),
        (queue.Bind("q", "x", "k.#", True, {}), "BsssbF", [0, "q", "x", "k.#", True, {}]),
        (queue.Unbind("q", "x", "k.#", {"a": [1]}), "BsssF", [0, "q", "x", "k.#", {"a": [1]}]),
        (basic.Qos(0, 100, True), "lBb", [0, 100, True]),
        (basic.GetOk(2**63, True, "x", "k", 4), "Lbssl", [2**63, True, "x", "k", 4]),
        (basic.Nack(9, False, True), "Lbb", [9, False, True]),
    ],
    ids=lambda value: getattr(value, "NAME", ""),
)
def test_py_amqp_writes_the_same_bytes(method: Method, form: str, arguments: list[object]) -> None:
    """py-amqp's serializer, told the fields by its own letters, gives the same bytes."""
    theirs = py_amqp.dumps(form, arguments)
    assert method.encode()[4:] == theirs
    assert type(method).decode(theirs, 0) == method
