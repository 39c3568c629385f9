"""Measure how fast either end turns bytes into events: ``python -m tests.benchmarks.bench_engine``."""

from __future__ import annotations

import time

from leveret.amqp.connection import Connection
from leveret.amqp.frames import ack_frame, deliver_frames, nack_frame, publish_frames
from leveret.amqp.properties import BasicProperties, encode_header
from tests.support.conversation import open_pair

ROUNDS = 5
MESSAGES = 200_000
CHUNK_BYTES = 65536
ROUTE = b"\x00\x06celery"


def measure(name: str, end: Connection, message: bytes) -> None:
    """Print the best rate at which an end takes a message, fed in chunks as a socket gives them."""
    stream = message * MESSAGES
    chunks = [stream[start : start + CHUNK_BYTES] for start in range(0, len(stream), CHUNK_BYTES)]
    best_s = float("inf")
    for _ in range(ROUNDS):
        events = 0
        began_s = time.perf_counter()
        for chunk in chunks:
            for _event in end.receive_data(chunk, 0.0):
                events += 1
        best_s = min(best_s, time.perf_counter() - began_s)
        assert events == MESSAGES
    print(f"{name:<28}{len(message):>7} bytes {MESSAGES / best_s:>12,.0f}/s")


def main() -> None:
    """Run all measurements."""
    talk = open_pair()
    frame_max = talk.server.frame_max
    for body_size in (0, 256, 4096):
        body = bytes(body_size)
        header = encode_header(body_size, BasicProperties(content_type="application/json", delivery_mode=2))
        measure(f"publish, body {body_size}", talk.server, publish_frames(1, ROUTE, 1, header, body, frame_max))
        deliver = deliver_frames(1, b"\x04ctag", 7, False, ROUTE, header, body, frame_max)
        measure(f"deliver, body {body_size}", talk.client, deliver)
    measure("ack", talk.server, ack_frame(1, 7))
    measure("nack", talk.server, nack_frame(1, 7))


if __name__ == "__main__":
    main()
