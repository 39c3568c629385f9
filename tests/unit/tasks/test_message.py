"""Task messages against real Celery: its workers read ours, we read its producers'."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from amqp.basic_message import Message as PyAmqpMessage
from celery import Celery
from celery import chain as celery_chain
from celery.worker.request import Request as CeleryRequest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.serialization import loads as kombu_loads

from leveret.amqp.properties import BasicProperties, decode_header, encode_header
from leveret.errors import MessageError
from leveret.tasks.decoding import decode
from leveret.tasks.message import CRASHES_HEADER, Embedded, TaskMessage, describe, encode
from leveret.tasks.raw_header import count_crash, peek

ID = "8c1d7b9e-5f0b-4b7e-9d5c-1c1c5c0e8a11"
MOMENT = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)

CELERY_HEADERS = {
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id", "parent_id"),
    *("argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps"),
}


@pytest.fixture(scope="module")
def celery_app() -> Iterator[Celery]:
    """Make a Celery app that speaks to nobody."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"])
    yield app
    app.close()


def from_celery(app: Celery, name: str, args: list[object], kwargs: dict[str, object], **options: object) -> tuple[bytes, bytes]:
    """Return what a Celery producer would put on the wire: the content header by py-amqp's own encoder, and the body."""
    message = app.amqp.as_task_v2(options.pop("task_id", ID), name, args, kwargs, **options)
    with Connection("memory://") as connection:
        producer = Producer(connection)
        body, content_type, content_encoding = producer._prepare(message.body, "json", None, None, None, message.headers)
    properties = {**message.properties, "delivery_mode": 2, "priority": 0}
    raw = PyAmqpMessage(
        body, content_type=content_type, content_encoding=content_encoding, application_headers=message.headers, **properties
    )
    data = body.encode() if isinstance(body, str) else body
    # A content header's payload is class, weight, body size and what py-amqp serializes: flags and properties.
    return b"\x00\x3c\x00\x00" + len(data).to_bytes(8, "big") + raw._serialize_properties(), data


def to_celery(header: bytes, body: bytes) -> CeleryRequest:
    """Return the request that a Celery worker makes of a message of ours, decoded by py-amqp and kombu."""
    raw = PyAmqpMessage()
    raw._load_properties(60, header[12:], 0)
    properties = dict(raw.properties)
    with Connection("memory://") as connection, connection.channel() as channel:
        queue = Queue("q", Exchange("q"), routing_key="q", channel=channel)
        queue.declare()
        received: list[object] = []
        consumer = Consumer(channel, [queue], callbacks=[lambda _body, message: received.append(message)], accept=["json"])
        headers = properties.pop("application_headers")
        content_type, content_encoding = properties.pop("content_type"), properties.pop("content_encoding")
        prepared = channel.prepare_message(
            body.decode(), content_type=content_type, content_encoding=content_encoding, headers=headers, properties=properties
        )
        channel.basic_publish(prepared, "q", "q")
        consumer.consume()
        connection.drain_events(timeout=1)
        (message,) = received
    peer = Celery("peer", set_as_current=False)

    @peer.task(name="shop.add")
    def add(*args: object, **kwargs: object) -> None:
        """Do nothing."""

    return CeleryRequest(message, decoded=False, hostname="h", app=peer)


def test_a_message_has_just_celerys_headers_and_properties() -> None:
    """The properties and header keys are those of a message that Celery sends, no more and no less."""
    header, body = encode(TaskMessage(id=ID, task="shop.add", args=[2, 2]))
    size, properties = decode_header(header)
    assert size == len(body)
    assert properties == BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=properties.headers,
        delivery_mode=2,
        priority=0,
        correlation_id=ID,
        reply_to="",
    )
    assert properties.headers is not None
    assert properties.headers.keys() == CELERY_HEADERS
    assert body == b'[[2,2],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


def test_our_message_equals_celerys_field_by_field(celery_app: Celery) -> None:
    """For one call with everything in it, Celery and we write the same headers, properties and body."""
    options = {"eta": MOMENT, "expires": MOMENT + timedelta(hours=1), "time_limit": 300, "soft_time_limit": 240.5}
    more = {"group_id": "g", "group_index": 3, "retries": 2, "root_id": "r", "parent_id": "p", "shadow": "s"}
    args, kwargs = [1, "zwei", MOMENT, Decimal("1.5"), uuid.UUID(ID), b"b"], {"k": [None, True]}
    theirs = from_celery(celery_app, "shop.add", args, kwargs, **options, **more, origin="gen1@h", reply_to="back")
    ours = encode(
        TaskMessage(
            id=ID,
            task="shop.add",
            args=args,
            kwargs=kwargs,
            eta=MOMENT,
            expires=MOMENT + timedelta(hours=1),
            timelimit=(300, 240.5),
            group="g",
            group_index=3,
            retries=2,
            root_id="r",
            parent_id="p",
            shadow="s",
            origin="gen1@h",
            reply_to="back",
        )
    )
    (_, their_properties), (_, our_properties) = decode_header(theirs[0]), decode_header(ours[0])
    for properties in (their_properties, our_properties):
        assert properties.headers is not None
        del properties.headers["argsrepr"], properties.headers["kwargsrepr"]  # texts for people, cut differently
    assert our_properties == their_properties
    assert json.loads(ours[1]) == json.loads(theirs[1])


def test_a_celery_worker_reads_our_message() -> None:
    """Its request has the name, ids, arguments, limits and times that we sent."""
    message = TaskMessage(
        id=ID,
        task="shop.add",
        args=[1, MOMENT],
        kwargs={"price": Decimal("1.5")},
        eta=MOMENT,
        expires=MOMENT + timedelta(days=1),
        timelimit=(300, 240),
        retries=300,
        group="g",
        root_id="r",
        parent_id="p",
        reply_to="back",
        priority=7,
        crashes=2,
        headers={"tenant": "eu"},
    )
    request = to_celery(*encode(message))
    assert (request.name, request.id, request.root_id, request.parent_id) == ("shop.add", ID, "r", "p")
    assert (request.reply_to, request.correlation_id) == ("back", ID)
    assert request.time_limits == [300, 240]
    assert request.eta == MOMENT
    assert request.expires == MOMENT + timedelta(days=1)
    assert request.request_dict["retries"] == 300
    assert request.request_dict["group"] == "g"
    assert request.request_dict["tenant"] == "eu"
    assert request.delivery_info["priority"] == 7
    args, kwargs, embed = request._payload
    assert (args, kwargs) == ([1, MOMENT], {"price": Decimal("1.5")})
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_we_read_a_celery_producers_message(celery_app: Celery) -> None:
    """Every field of a message with everything in it arrives, a chain's signatures included."""
    add = celery_app.signature("shop.add", args=(1,))
    tail = celery_chain(add, celery_app.signature("shop.mul", args=(2,)))
    header, body = from_celery(
        celery_app,
        "shop.add",
        [1, MOMENT, Decimal("2.50"), uuid.UUID(ID), b"\xff"],
        {"day": MOMENT.date()},
        eta=MOMENT,
        expires=MOMENT + timedelta(hours=1),
        time_limit=300,
        soft_time_limit=240,
        group_id="g",
        group_index=1,
        root_id="r",
        parent_id="p",
        retries=2,
        shadow="s",
        reply_to="back",
        origin="gen1@h",
        ignore_result=True,
        callbacks=[add],
        errbacks=[add],
        chain=list(tail.tasks),
        chord=add,
        stamped_headers=["stamp"],
        stamp="x",
    )
    message = decode(header, body)
    embedded = message.embedded
    assert [signature["task"] for signature in embedded.chain or ()] == ["shop.add", "shop.mul"]  # type: ignore[index]  # JSON
    assert embedded.callbacks is not None
    assert embedded.errbacks is not None
    assert embedded.chord is not None
    message.embedded = Embedded()
    message.argsrepr = message.kwargsrepr = ""
    assert message == TaskMessage(
        id=ID,
        task="shop.add",
        args=[1, MOMENT, Decimal("2.50"), uuid.UUID(ID), b"\xff"],
        kwargs={"day": MOMENT.date()},
        eta=MOMENT,
        expires=MOMENT + timedelta(hours=1),
        timelimit=(300, 240),
        group="g",
        group_index=1,
        root_id="r",
        parent_id="p",
        retries=2,
        shadow="s",
        reply_to="back",
        correlation_id=ID,
        origin="gen1@h",
        ignore_result=True,
        stamped_headers=["stamp"],
        stamps={"stamp": "x"},
    )


def test_a_plain_celery_message_has_no_workflow(celery_app: Celery) -> None:
    """Nothing follows from an ordinary call."""
    assert not decode(*from_celery(celery_app, "shop.add", [1], {})).embedded


def test_a_message_comes_back_as_it_was() -> None:
    """What we encode we decode, our own header and the caller's included."""
    message = TaskMessage(
        id=ID,
        task="shop.add",
        args=[1],
        kwargs={"a": "b"},
        embedded=Embedded(chain=[{"task": "x"}]),
        eta=MOMENT,
        root_id=ID,
        correlation_id="c",
        crashes=1,
        priority=3,
        headers={"tenant": "eu", "n": 5},
    )
    assert decode(*encode(message)) == message


def test_the_expiration_travels_twice() -> None:
    """A call that expires says so to the worker by its header and to the broker by the property, in milliseconds."""
    header, _ = encode(TaskMessage(id=ID, task="t", expires=MOMENT, expiration_ms=1500))
    _, properties = decode_header(header)
    assert properties.expiration == "1500"
    assert properties.headers is not None
    assert properties.headers["expires"] == MOMENT.isoformat()


def test_a_compressed_celery_message_is_read(celery_app: Celery) -> None:
    """A body under Celery's ``compression="gzip"`` is decompressed first."""
    header, body = from_celery(celery_app, "shop.add", [1], {})
    _, properties = decode_header(header)
    assert properties.headers is not None
    properties.headers["compression"] = "application/x-gzip"
    packed = zlib.compress(body)
    message = decode(encode_header(len(packed), properties), packed)
    assert message.args == [1]
    assert message.headers == {}


def test_protocol_1_is_read(celery_app: Celery) -> None:
    """A message of the old protocol has everything in its body; it is found out by the missing header."""
    old = celery_app.amqp.as_task_v1(ID, "shop.add", [1], {"k": 2}, eta=MOMENT, retries=1, time_limit=9, soft_time_limit=8)
    body = json.dumps(old.body).encode()
    properties = BasicProperties(content_type="application/json", content_encoding="utf-8", headers={}, correlation_id=ID)
    message = decode(encode_header(len(body), properties), body)
    assert (message.id, message.task, message.args, message.kwargs, message.retries) == (ID, "shop.add", [1], {"k": 2}, 1)
    assert message.eta == MOMENT
    assert message.timelimit == (9, 8)


def with_headers(body: bytes = b"[[],{},null]", content_type: str = "application/json", **headers: object) -> tuple[bytes, bytes]:
    """Return a message of protocol 2 with some headers set and others as they should be."""
    table = {"task": "t", "id": ID, **headers}
    fields = {name: value for name, value in table.items() if value is not ...}
    properties = BasicProperties(content_type=content_type, content_encoding="utf-8", headers=fields)  # type: ignore[arg-type]  # any
    return encode_header(len(body), properties), body


def test_the_least_a_message_needs_is_task_and_id() -> None:
    """Whatever else is missing has a sensible value, a null embed included."""
    message = decode(*with_headers())
    assert (message.task, message.id, message.args, message.kwargs) == ("t", ID, [], {})
    assert not message.embedded


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ((b"\x00\x3c", b""), "content header"),
        (with_headers(task=...), "without the header 'task'"),
        (with_headers(id=...), "without the header 'id'"),
        (with_headers(id=3), "'id' is 3"),
        (with_headers(b"{}"), "not [args, kwargs, embed]"),
        (with_headers(b"[1,2,3]"), "not [args, kwargs, embed]"),
        (with_headers(b"not json"), "not JSON"),
        (with_headers(b"x", content_type="application/x-python-serialize"), "application/x-python-serialize"),
        (with_headers(retries="many"), "'retries' is 'many'"),
        (with_headers(retries=-1), "'retries' is -1"),
        (with_headers(eta="tomorrow"), "'eta' is 'tomorrow'"),
        (with_headers(timelimit=[1]), "'timelimit' is [1]"),
        (with_headers(b'{"task": 1}', task=...), "protocol 1"),
    ],
)
def test_what_is_not_a_task_message_is_refused_with_its_reason(message: tuple[bytes, bytes], words: str) -> None:
    """Every kind of nonsense is a MessageError that says what is wrong, never another exception."""
    with pytest.raises(MessageError) as caught:
        decode(*message)
    assert words in str(caught.value)


def test_a_time_without_offset_is_utc() -> None:
    """Celery's older producers leave the offset out and mean UTC."""
    assert decode(*with_headers(eta="2026-11-23T08:30:00")).eta == MOMENT
    assert decode(*with_headers(eta="2026-11-23T08:30:00Z")).eta == MOMENT


def test_a_retry_is_the_same_call_without_the_traces_of_its_way() -> None:
    """One retry more, no crashes, none of the headers a broker leaves; everything else stays."""
    traces = {"x-death": [{"queue": "q"}], "x-first-death-queue": "q", "x-last-death-reason": "expired", "x-delivery-count": 2}
    message = TaskMessage(id=ID, task="t", args=[1], retries=1, crashes=2, priority=4, headers={**traces, "tenant": "eu"})
    again = message.retried(MOMENT)
    assert (again.retries, again.crashes, again.eta, again.headers) == (2, 0, MOMENT, {"tenant": "eu"})
    assert (again.id, again.args, again.priority) == (ID, [1], 4)


def test_peek_finds_name_and_id_in_the_raw_header(celery_app: Celery) -> None:
    """Of our messages, of Celery's, and past fields of every type; a header without them has neither."""
    assert peek(encode(TaskMessage(id=ID, task="shop.add"))[0]) == ("shop.add", ID)
    assert peek(from_celery(celery_app, "shop.add", [1], {})[0]) == ("shop.add", ID)
    before = {"a": 1, "b": [1, {"task": "no"}], "c": MOMENT, "d": None, "e": Decimal("1.5"), "f": 2.5, "g": b"x", "h": True}
    properties = BasicProperties(content_type="a", headers={**before, "task": "t", "id": ID}, priority=3)
    assert peek(encode_header(0, properties)) == ("t", ID)
    assert peek(encode_header(0, BasicProperties(headers={"id": ID}))) == (None, ID)
    assert peek(encode_header(0, BasicProperties(content_type="a"))) == (None, None)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_peek_survives_a_header_that_is_cut_off(cut: int) -> None:
    """Malformed bytes are somebody else's error: peek finds nothing, or what stands before the cut."""
    header, _ = encode(TaskMessage(id=ID, task="shop.add"))
    assert peek(header[:cut]) in [(None, None), ("shop.add", None), ("shop.add", ID)]


def test_crashes_are_counted_in_the_message() -> None:
    """Each crash makes a header that differs in nothing but the count."""
    message = TaskMessage(id=ID, task="t", args=[1], root_id=ID, correlation_id=ID, headers={"tenant": "eu"})
    header, body = encode(message)
    once, first = count_crash(header)
    twice, second = count_crash(once)
    assert (first, second) == (1, 2)
    message.crashes = 2
    assert decode(twice, body) == message
    assert decode_header(twice)[1].headers[CRASHES_HEADER] == 2  # type: ignore[index]  # it has headers


def test_descriptions_are_short() -> None:
    """A repr for people: whole when it is small, at most 1,024 characters whatever the value."""
    assert describe((1, "a", {"k": [2]})) == "(1, 'a', {'k': [2]})"
    assert describe(()) == "()"
    assert len(describe(["x" * 5000] * 5000)) <= 1024
    assert len(describe(dict.fromkeys(range(1000), "y" * 100))) <= 1024


def test_a_value_that_cannot_be_described_is_no_error() -> None:
    """An array is neither true nor false, and a class of the user's may say anything of itself."""

    class Unsure:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    class Odd:
        def __repr__(self) -> str:
            return "\ud800"

    assert describe(Unsure()) == "<Unsure that cannot be shown>"
    assert describe((Odd(),)) == r"(\ud800,)"


def test_kombu_reads_our_body() -> None:
    """The body is what kombu's json serializer reads under our content type."""
    _, body = encode(TaskMessage(id=ID, task="t", args=[MOMENT]))
    args, _, _ = kombu_loads(body, "application/json", "utf-8", accept=["application/json"])
    assert args == [MOMENT]
