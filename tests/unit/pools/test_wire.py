"""Frames between supervisor and child."""

from __future__ import annotations

import msgspec
import pytest

from leveret.errors import RemoteProtocolError
from leveret.pools.wire import FRAME_SIZE_MAX_BYTES, FrameReader, Job, frame


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 100])
def test_frames_survive_any_cut(piece: int) -> None:
    """The stream may arrive in pieces of any size; the frames come out whole and in order."""
    payloads = [b"", b"a", b"bc" * 20, b"", b"d"]
    stream = b"".join(frame(payload) for payload in payloads)
    reader = FrameReader()
    found = [got for at in range(0, len(stream), piece) for got in reader.feed(stream[at : at + piece])]
    assert found == payloads


def test_the_length_is_four_bytes_big_endian() -> None:
    """A frame is its payload's length in network order and the payload."""
    assert frame(b"xyz") == b"\x00\x00\x00\x03xyz"


def test_an_absurd_length_is_refused() -> None:
    """A length beyond the limit is an error, not a reason to wait for a gigabyte."""
    with pytest.raises(RemoteProtocolError, match=str(FRAME_SIZE_MAX_BYTES)):
        FrameReader().feed((FRAME_SIZE_MAX_BYTES + 1).to_bytes(4, "big"))


def test_a_job_is_an_array_on_the_wire() -> None:
    """A job travels as [number, queue, redelivered, route, header, body] and comes back equal."""
    job = Job(7, "q", True, b"\x00\x01q", b"header", b"body")
    encoded = msgspec.msgpack.encode([job])
    assert msgspec.msgpack.decode(encoded) == [[7, "q", True, b"\x00\x01q", b"header", b"body"]]
    assert msgspec.msgpack.decode(encoded, type=list[Job]) == [job]
