"""The byte stream may be cut anywhere: TCP promises bytes in order, not frames."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.channel import Role
from leveret.amqp.connection import CLOSED, Connection, Event
from leveret.amqp.frames import HEARTBEAT_FRAME, ack_frame, deliver_frames, frame, nack_frame, publish_frames
from leveret.amqp.methods import basic, channel, confirm, connection, queue
from leveret.amqp.properties import BasicProperties
from leveret.errors import LeveretError, ReplyError
from tests.support.conversation import header_of, open_pair

FRAME_MAX = 4096
CHANNELS = 3

bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([0, 1, FRAME_MAX - 8, FRAME_MAX - 7, FRAME_MAX, 3 * FRAME_MAX]).map(lambda size: b"\xce" * size),
)
numbers = st.integers(1, CHANNELS)
properties = st.builds(
    BasicProperties, delivery_mode=st.sampled_from([None, 1, 2]), correlation_id=st.none() | st.text(max_size=10)
)
routes = st.sampled_from([b"\x00\x06celery", b"\x09amq.topic\x05a.b.c", b"\x00\x00", b"\xff" + b"e" * 255 + b"\xff" + b"k" * 255])


@st.composite
def from_client(draw: st.DrawFn) -> bytes:
    """Return frames of one request of a client."""
    number = draw(numbers)
    kind = draw(
        st.sampled_from(["publish", "publish", "publish", "ack", "nack", "reject", "declare", "confirm", "heartbeat", "reopen"])
    )
    body = draw(bodies)
    match kind:
        case "publish":
            return publish_frames(
                number, draw(routes), draw(st.integers(0, 3)), header_of(body, draw(properties)), body, FRAME_MAX
            )
        case "ack":
            return ack_frame(number, draw(st.integers(0, 1 << 63)), draw(st.booleans()))
        case "nack":
            return nack_frame(number, draw(st.integers(0, 9)), multiple=draw(st.booleans()), requeue=draw(st.booleans()))
        case "reject":
            return frame(1, number, basic.Reject(draw(st.integers(0, 9)), draw(st.booleans())).encode())
        case "declare":
            return frame(1, number, queue.Declare("q", arguments={"x-max-priority": 10}).encode())
        case "confirm":
            return frame(1, number, confirm.Select().encode())
        case "reopen":
            close = frame(1, number, channel.Close(200, "", 0, 0).encode())
            return close + frame(1, number, channel.Open().encode())
        case _:
            return HEARTBEAT_FRAME


@st.composite
def from_server(draw: st.DrawFn) -> bytes:
    """Return frames of one answer or delivery of a server."""
    number = draw(numbers)
    kind = draw(
        st.sampled_from(["deliver", "deliver", "deliver", "ack", "return", "get-ok", "declare-ok", "cancel", "heartbeat"])
    )
    body = draw(bodies)
    header = header_of(body, draw(properties))
    match kind:
        case "deliver":
            tag = draw(st.sampled_from([b"\x00", b"\x04ctag", "\x06ctägs".encode()]))
            facts = (draw(st.integers(0, 1 << 63)), draw(st.booleans()), draw(routes))
            return deliver_frames(number, tag, *facts, header, body, FRAME_MAX)
        case "ack":
            return ack_frame(number, draw(st.integers(0, 9)), draw(st.booleans()))
        case "return" | "get-ok":
            method = basic.Return(312, "NO_ROUTE", "", "q") if kind == "return" else basic.GetOk(1, False, "", "q", 5)
            content = publish_frames(number, b"\x00\x00", 0, header, body, FRAME_MAX)[17:]
            return frame(1, number, method.encode()) + content
        case "declare-ok":
            return frame(1, number, queue.DeclareOk("q", 1, 2).encode())
        case "cancel":
            return frame(1, number, basic.Cancel("ctag", True).encode())
        case _:
            return HEARTBEAT_FRAME


@dataclass(frozen=True)
class Heard:
    """All that came of a stream: events, errors as their facts, and what was written back."""

    events: list[Event | tuple[object, ...]]
    written: bytes
    state: str


def facts_of(error: LeveretError | None) -> tuple[object, ...]:
    """Return what makes two errors the same."""
    if isinstance(error, ReplyError):
        return type(error), error.reply_code, error.reply_text, error.class_id, error.method_id
    return type(error), str(error)


def hear(role: Role, chunks: Iterator[bytes]) -> Heard:
    """Feed the chunks to an open connection's end whose shell answers closes."""
    talk = open_pair(channels=CHANNELS, frame_max=FRAME_MAX, body_size_max=8 * FRAME_MAX)
    end: Connection = talk.server if role is Role.SERVER else talk.client
    events: list[Event | tuple[object, ...]] = []
    written = b""
    for chunk in chunks:
        for event in end.receive_data(chunk, 0.0):
            events.append((CLOSED, facts_of(event[1])) if event[0] == CLOSED else event)
            if role is Role.SERVER and event[0] == 4:
                if isinstance(event[2], channel.Close):
                    end.send(event[1], channel.CloseOk())
                elif isinstance(event[2], connection.Close):
                    end.send(0, connection.CloseOk())
        written += end.data_to_send()
    return Heard(events, written, end.state.value)


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """Cut the data at these places."""
    start = 0
    for place in sorted({place % len(data) for place in places} - {0}) if data else []:
        yield data[start:place]
        start = place
    if data[start:]:
        yield data[start:]


def single(data: bytes) -> Iterator[bytes]:
    """Cut the data into bytes."""
    return (data[place : place + 1] for place in range(len(data)))


@given(st.lists(from_client(), max_size=12), st.lists(st.integers(0, 1 << 20), max_size=10))
def test_a_server_hears_the_same_wherever_the_stream_is_cut(parts: list[bytes], places: list[int]) -> None:
    """Publishes, settlements, large bodies, reopened channels: the cuts change nothing."""
    data = b"".join(parts)
    whole = hear(Role.SERVER, iter([data] if data else []))
    assert whole.state == "running"
    assert hear(Role.SERVER, cut(data, places)) == whole


@given(st.lists(from_server(), max_size=12), st.lists(st.integers(0, 1 << 20), max_size=10))
def test_a_client_hears_the_same_wherever_the_stream_is_cut(parts: list[bytes], places: list[int]) -> None:
    """Deliveries, returned messages, confirms: the cuts change nothing."""
    data = b"".join(parts)
    whole = hear(Role.CLIENT, iter([data] if data else []))
    assert whole.state == "running"
    assert hear(Role.CLIENT, cut(data, places)) == whole


@given(st.data())
@pytest.mark.parametrize("role", Role)
def test_the_short_path_agrees_with_the_long_one(role: Role, data: st.DataObject) -> None:
    """Byte by byte every frame takes the long path, in one piece most take the short one: the same is heard."""
    small = st.binary(max_size=40)
    number, route, body = data.draw(numbers), data.draw(routes), data.draw(small)
    header = header_of(body, data.draw(properties))
    if role is Role.SERVER:
        message = publish_frames(number, route, data.draw(st.integers(0, 255)), header, body, FRAME_MAX)
    else:
        message = deliver_frames(number, b"\x01c", data.draw(st.integers(0, 9)), True, route, header, body, FRAME_MAX)
    message += ack_frame(number, 3)
    assert hear(role, iter([message * 3])) == hear(role, single(message * 3))


@given(st.data())
@pytest.mark.parametrize("role", Role)
def test_damaged_streams_are_heard_the_same_too(role: Role, data: st.DataObject) -> None:
    """A few wrong octets: whatever they do, no exception escapes and the cuts change neither events nor the error sent."""
    parts = data.draw(st.lists(from_client() if role is Role.SERVER else from_server(), min_size=1, max_size=4))
    damaged = bytearray(b"".join(parts))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of a stream is bodies: damage its beginning, and places near frame ends, as often as the rest.
        place = data.draw(st.integers(0, min(len(damaged) - 1, 60)) | st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.sampled_from([0, 1, 2, 3, 8, 40, 60, 206, 255]) | st.integers(0, 255))
    stream = bytes(damaged)
    whole = hear(role, iter([stream]))
    assert hear(role, cut(stream, data.draw(st.lists(st.integers(0, 1 << 20), max_size=10)))) == whole
    if len(stream) < 500:
        assert hear(role, single(stream)) == whole


def test_a_handshake_may_be_cut_anywhere() -> None:
    """From the protocol header on: fed byte by byte, both ends still open their connection."""
    client, server = Connection.client(), Connection.server({"product": "RabbitMQ"})
    client.start(0.0)
    server.start(0.0)
    while not (client.is_open and server.is_open):
        to_server, to_client = client.data_to_send(), server.data_to_send()
        assert to_server or to_client
        for octet in single(to_server):
            for event in server.receive_data(octet, 0.0):
                if event[0] == 6:
                    server.accept_login()
                elif event[0] == 5:
                    server.open_ok()
        for octet in single(to_client):
            list(client.receive_data(octet, 0.0))


def test_a_long_body_in_tiny_pieces_is_put_together_once() -> None:
    """Pieces of an incomplete frame are only counted until it is whole: reading stays linear in the size."""
    talk = open_pair(body_size_max=1 << 20)
    body = random.Random(0).randbytes(120_000)
    data = publish_frames(1, b"\x00\x01q", 0, header_of(body), body, 131072)
    events = [event for octet in single(data) for event in talk.server.receive_data(octet, 0.0)]
    assert [event[5:] for event in events] == [(body,)]
