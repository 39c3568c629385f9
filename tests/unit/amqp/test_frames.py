"""Frames going out: literal bytes."""

from __future__ import annotations

import pytest

from leveret.amqp.frames import (
    HEARTBEAT_FRAME,
    ack_frame,
    content_frames,
    deliver_frames,
    frame,
    nack_frame,
    octets,
    publish_frames,
)
from leveret.amqp.methods import basic
from leveret.errors import LocalProtocolError

HEADER = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00"


def test_a_frame_is_type_channel_size_payload_and_end() -> None:
    """AMQP 0-9-1, 4.2.3."""
    assert frame(1, 258, b"abc") == b"\x01\x01\x02\x00\x00\x00\x03abc\xce"
    assert HEARTBEAT_FRAME == b"\x08\x00\x00\x00\x00\x00\x00\xce"


def test_a_message_is_a_header_frame_and_a_body_frame() -> None:
    """The body goes out in one frame where it fits."""
    assert (
        content_frames(1, b"head", b"hello", 4096) == b"\x02\x00\x01\x00\x00\x00\x04head\xce\x03\x00\x01\x00\x00\x00\x05hello\xce"
    )


def test_an_empty_body_has_no_body_frame() -> None:
    """A header with size 0 is the whole message (AMQP 0-9-1, 4.2.6)."""
    assert content_frames(1, b"head", b"", 4096) == b"\x02\x00\x01\x00\x00\x00\x04head\xce"


@pytest.mark.parametrize(("size", "parts"), [(12, [12]), (13, [12, 1]), (24, [12, 12]), (30, [12, 12, 6])])
def test_a_body_is_split_so_that_no_frame_exceeds_frame_max(size: int, parts: list[int]) -> None:
    """A frame of frame_max bytes holds frame_max - 8 of the body."""
    body = bytes(range(size))
    expected = frame(2, 7, b"h")
    start = 0
    for part in parts:
        expected += frame(3, 7, body[start : start + part])
        start += part
    assert content_frames(7, b"h", body, 20) == expected


def test_without_a_limit_a_body_is_one_frame() -> None:
    """A frame_max of 0 is no limit."""
    assert content_frames(1, b"h", b"x" * 500_000, 0) == frame(2, 1, b"h") + frame(3, 1, b"x" * 500_000)


def test_a_header_that_does_not_fit_is_refused_here() -> None:
    """A header cannot be split: the caller hears of it, not the peer."""
    content_frames(1, b"x" * 4088, b"", 4096)
    with pytest.raises(LocalProtocolError, match=r"take 4089 bytes; this connection's frames hold 4088"):
        content_frames(1, b"x" * 4089, b"", 4096)


def test_publish_frames_are_what_the_method_class_writes() -> None:
    """The short way and the long way give the same bytes."""
    method = basic.Publish(exchange="amq.topic", routing_key="a.b", mandatory=True)
    expected = frame(1, 3, method.encode()) + content_frames(3, HEADER, b"hello", 4096)
    assert publish_frames(3, b"\x09amq.topic\x03a.b", 1, HEADER, b"hello", 4096) == expected


@pytest.mark.parametrize("redelivered", [False, True])
def test_deliver_frames_are_what_the_method_class_writes(redelivered: bool) -> None:
    """The short way and the long way give the same bytes."""
    method = basic.Deliver(consumer_tag="c", delivery_tag=1 << 40, redelivered=redelivered, exchange="", routing_key="celery")
    expected = frame(1, 3, method.encode()) + content_frames(3, HEADER, b"hello", 4096)
    assert deliver_frames(3, b"\x01c", 1 << 40, redelivered, b"\x00\x06celery", HEADER, b"hello", 4096) == expected


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("requeue", [False, True])
def test_settlements_are_what_the_method_classes_write(multiple: bool, requeue: bool) -> None:
    """The short way and the long way give the same bytes."""
    assert ack_frame(3, 9, multiple) == frame(1, 3, basic.Ack(delivery_tag=9, multiple=multiple).encode())
    nack = basic.Nack(delivery_tag=9, multiple=multiple, requeue=requeue)
    assert nack_frame(3, 9, multiple=multiple, requeue=requeue) == frame(1, 3, nack.encode())


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "<<>>"),
        (b"abc", '<<"abc">>'),
        (b"a\x00", "<<97,0>>"),
        (b'say "x"', "<<115,97,121,32,34,120,34>>"),
        (b"x" * 65, f'<<"{"x" * 64}...">>'),
        (b"\x00" * 65, f"<<{','.join('0' * 64)}...>>"),
    ],
)
def test_octets_are_shown_as_rabbitmq_shows_them(payload: bytes, text: str) -> None:
    """Erlang's notation of a binary, and never more of it than one can read."""
    assert octets(payload) == text
