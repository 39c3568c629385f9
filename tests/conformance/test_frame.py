"""AMQP 0-9-1, 4.2: what a broker says to frames that are wrong."""

from __future__ import annotations

import struct

import pytest
from pika import frame as frames
from pika import spec

from tests.support.brokers import Broker
from tests.support.raw_client import RawClient, frame_bytes, method_bytes

PUBLISH = method_bytes(1, spec.Basic.Publish(routing_key="nowhere"))


def _close(client: RawClient) -> tuple[int, str, int, int]:
    close = client.receive_method(spec.Connection.Close)
    return close.reply_code, close.reply_text, close.class_id, close.method_id


def _header(class_id: int, body_size: int, *, weight: int = 0) -> bytes:
    return frame_bytes(spec.FRAME_HEADER, 1, struct.pack(">HHQH", class_id, weight, body_size, 0))


def test_wrong_end_of_frame_is_a_frame_error(raw_channel: RawClient) -> None:
    """A frame ends with 0xCE (4.2.3)."""
    raw_channel.send(frame_bytes(spec.FRAME_BODY, 1, b"", end=0))
    assert _close(raw_channel) == (
        501,
        "FRAME_ERROR - type 3, all octets = <<>>: {invalid_frame_end_marker,0}",
        0,
        0,
    )


def test_unknown_type_of_frame_is_a_frame_error(raw_channel: RawClient) -> None:
    """There are types 1, 2, 3 and 8 (4.2.3)."""
    raw_channel.send(frame_bytes(9, 1, b"abc"))
    assert _close(raw_channel) == (501, 'FRAME_ERROR - type 9, all octets = <<"abc">>: unknown_frame', 0, 0)


def test_frame_beyond_the_negotiated_size_is_a_frame_error(broker: Broker, raw: RawClient) -> None:
    """A frame is no larger than tune-ok said, its 8 bytes of header and end included (4.2.3)."""
    raw.open(broker.vhost, frame_max=4096)
    raw.open_channel(1)
    raw.send(frame_bytes(spec.FRAME_BODY, 1, b"x" * 5000))
    assert _close(raw)[:2] == (501, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,5000,4088}")


def test_payload_of_the_frames_size_is_tolerated(broker: Broker, raw: RawClient) -> None:
    """Clients that forget the 8 bytes of a frame's header and end are served, as RabbitMQ serves them."""
    raw.open(broker.vhost, frame_max=4096)
    raw.open_channel(1)
    raw.send_method(1, spec.Confirm.Select())
    raw.receive_method(spec.Confirm.SelectOk)
    raw.send(PUBLISH + _header(60, 4096) + frame_bytes(spec.FRAME_BODY, 1, b"x" * 4096))
    raw.receive_method(spec.Basic.Ack)


def test_truncated_arguments_are_a_frame_error_of_their_method(raw_channel: RawClient) -> None:
    """A method whose arguments end too early is named in the close (4.2.4)."""
    raw_channel.send(frame_bytes(spec.FRAME_METHOD, 1, struct.pack(">HHB", 50, 10, 0)))
    assert _close(raw_channel) == (501, "FRAME_ERROR - cannot decode <<0>>", 50, 10)


def test_unknown_method_ends_the_connection(broker: Broker, raw_channel: RawClient) -> None:
    """A method that 0-9-1 does not have is 503 or 540; RabbitMQ's parser crashes and closes the socket."""
    raw_channel.send(frame_bytes(spec.FRAME_METHOD, 1, struct.pack(">HH", 60, 999)))
    if broker.kind == "embedded":
        assert _close(raw_channel)[0] in (503, 540)
    else:
        assert raw_channel.receive_rest() == b""


def test_unknown_tag_in_a_table_ends_the_connection(broker: Broker, raw_channel: RawClient) -> None:
    """A field of unknown type is 502; RabbitMQ's parser crashes and closes the socket."""
    table = b"\x01aZ"
    arguments = struct.pack(">HB1sB", 0, 1, b"q", 0) + struct.pack(">I", len(table)) + table
    raw_channel.send(frame_bytes(spec.FRAME_METHOD, 1, struct.pack(">HH", 50, 10) + arguments))
    if broker.kind == "embedded":
        code, text, _, _ = _close(raw_channel)
        assert code == 502
        assert text.startswith("SYNTAX_ERROR - ")
    else:
        assert raw_channel.receive_rest() == b""


@pytest.mark.parametrize(
    ("sent", "text", "method"),
    [
        (
            frame_bytes(spec.FRAME_BODY, 1, b"x"),
            "expected method frame, got non method frame instead",
            (0, 0),
        ),
        (
            _header(60, 1),
            "expected method frame, got non method frame instead",
            (0, 0),
        ),
        (
            PUBLISH + frame_bytes(spec.FRAME_BODY, 1, b"x"),
            "expected content header for class 60, got non content header frame instead",
            (60, 40),
        ),
        (
            PUBLISH + PUBLISH,
            "expected content header for class 60, got non content header frame instead",
            (60, 40),
        ),
        (
            PUBLISH + _header(50, 1),
            "expected content header for class 60, got one for class 50 instead",
            (60, 40),
        ),
        (
            PUBLISH + _header(60, 2) + PUBLISH,
            "expected content body, got non content body frame instead",
            (60, 40),
        ),
    ],
    ids=["body first", "header first", "no header", "two methods", "header of another class", "no body"],
)
def test_content_out_of_order_is_an_unexpected_frame(
    raw_channel: RawClient, sent: bytes, text: str, method: tuple[int, int]
) -> None:
    """A content is its method, one header and as many bodies as it takes, with nothing between on its channel (4.2.6)."""
    raw_channel.send(sent)
    assert _close(raw_channel) == (505, f"UNEXPECTED_FRAME - {text}", *method)


def test_contents_of_two_channels_may_be_mixed(broker: Broker, raw_channel: RawClient) -> None:
    """The frames of one content follow each other on their channel only (4.2.6)."""
    raw_channel.open_channel(2)
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    bodies = {1: b"one", 2: b"two"}
    for channel in bodies:
        raw_channel.send_method(channel, spec.Confirm.Select())
        raw_channel.receive_method(spec.Confirm.SelectOk)
    for channel in bodies:
        raw_channel.send_method(channel, spec.Basic.Publish(routing_key=queue))
    for channel, body in bodies.items():
        raw_channel.send(frames.Header(channel, len(body), spec.BasicProperties()).marshal())
    for channel, body in bodies.items():
        raw_channel.send(frame_bytes(spec.FRAME_BODY, channel, body))
        raw_channel.receive_method(spec.Basic.Ack, channel=channel)
    received = []
    for _ in bodies:
        raw_channel.send_method(1, spec.Basic.Get(queue=queue, no_ack=True))
        raw_channel.receive_method(spec.Basic.GetOk)
        raw_channel.receive()
        body = raw_channel.receive()
        assert isinstance(body, frames.Body)
        received.append(body.fragment)
    assert received == [b"one", b"two"]


def test_empty_body_has_no_body_frame(raw_channel: RawClient) -> None:
    """A body of no bytes is complete with its header, in both directions (4.2.6.2)."""
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send(_header(60, 0))
    raw_channel.send_method(1, spec.Basic.Get(queue=queue, no_ack=True))
    raw_channel.receive_method(spec.Basic.GetOk)
    header = raw_channel.receive()
    assert isinstance(header, frames.Header)
    assert header.body_size == 0
    raw_channel.send_method(1, spec.Channel.Close(200, "", 0, 0))
    raw_channel.receive_method(spec.Channel.CloseOk)


def test_body_beyond_its_size_is_a_frame_error(broker: Broker, raw_channel: RawClient) -> None:
    """A body longer than its header said is 501; RabbitMQ says so from 4.2 on, and before goes on waiting for more."""
    raw_channel.send(PUBLISH + _header(60, 2) + frame_bytes(spec.FRAME_BODY, 1, b"three"))
    if broker.kind == "embedded" or broker.version >= (4, 2):
        assert _close(raw_channel)[:2] == (501, "FRAME_ERROR - content body frame exceeds remaining content size")
    else:
        raw_channel.send_method(1, spec.Channel.Close(200, "", 0, 0))
        assert _close(raw_channel)[:2] == (505, "UNEXPECTED_FRAME - expected content body, got non content body frame instead")


def test_table_of_every_type_is_taken_and_given_back_unchanged(raw_channel: RawClient) -> None:
    """Headers of any type a client may write are relayed as they were sent (4.2.5)."""
    fields = [
        b"S\x00\x00\x00\x04text",
        b"t\x01",
        b"b\xff",
        b"B\xff",
        b"s\xff\xfe",
        b"u\xff\xfe",
        b"I\xff\xff\xff\xfe",
        b"i\xff\xff\xff\xfe",
        b"l\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"f\x3f\x80\x00\x00",
        b"d\x3f\xf0\x00\x00\x00\x00\x00\x00",
        b"D\x02\x00\x00\x01\x3a",
        b"T\x00\x00\x00\x00\x65\x00\x00\x00",
        b"A\x00\x00\x00\x04t\x01t\x00",
        b"F\x00\x00\x00\x04\x01at\x01",
        b"x\x00\x00\x00\x02\x00\xff",
        b"V",
    ]
    table = b"".join(bytes([2]) + f"k{index:x}"[:2].encode() + field for index, field in enumerate(fields[:16]))
    table += b"\x02kv" + fields[16]
    header = struct.pack(">HHQHI", 60, 0, 1, 0x2000, len(table)) + table
    raw_channel.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw_channel.receive_method(spec.Queue.DeclareOk).queue
    raw_channel.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw_channel.send(frame_bytes(spec.FRAME_HEADER, 1, header) + frame_bytes(spec.FRAME_BODY, 1, b"x"))
    raw_channel.send_method(1, spec.Basic.Get(queue=queue, no_ack=True))
    raw_channel.receive_method(spec.Basic.GetOk)
    expected = frame_bytes(spec.FRAME_HEADER, 1, header)
    assert raw_channel.receive_bytes(len(expected)) == expected
