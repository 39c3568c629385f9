"""A broker seen from the wire: ``python -m tests.benchmarks.bench_broker --url URL [--pid PID]``.

One connection, our own engine, no client library: confirmed publishes in a window, then deliveries acknowledged in
batches, durable and transient; then the time of one message alone. Works on RabbitMQ alike. With ``--pid`` of a broker
on this machine it also says how much of a processor each message took there, which other work on the machine does not
change.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from leveret.amqp.frames import publish_frames
from leveret.amqp.methods import basic, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import encode_shortstr
from leveret.amqp.uris import parse_url
from tests.support.peer import Peer

__all__ = ["BrokerFigures", "measure"]

NAMES: Final = {True: "leveret-bench-durable", False: "leveret-bench-transient"}
WINDOW: Final = 4000
CHUNK: Final = 500
"""Messages in one write, so that the client's own cost stays small."""
PREFETCH: Final = 2000
SINGLES: Final = 1000
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class BrokerFigures:
    """What one broker gave; rates per second, times in milliseconds, processor time in microseconds a message."""

    durable_publish: float
    durable_publish_cpu_us: float
    durable_deliver_ack: float
    durable_deliver_ack_cpu_us: float
    transient_publish: float
    transient_publish_cpu_us: float
    transient_deliver_ack: float
    transient_deliver_ack_cpu_us: float
    publish_confirm_p50_ms: float
    publish_confirm_p99_ms: float
    publish_deliver_p50_ms: float
    publish_deliver_p99_ms: float


def measure(url: str, *, messages: int, body_bytes: int = 256, pid: int = 0) -> BrokerFigures:
    """Run all the measurements on one broker; ``pid`` 0: its processor time is not known."""
    figures: dict[str, float] = {}
    for kind, persistent in [("durable", True), ("transient", False)]:
        with _connect(url) as peer:
            frames = _prepare(peer, persistent=persistent, body_bytes=body_bytes)
            for name, work in [("publish", _publish), ("deliver_ack", _deliver_ack)]:
                rate, cpu_us = _timed(partial(work, peer, frames, messages), messages, pid)
                figures |= {f"{kind}_{name}": rate, f"{kind}_{name}_cpu_us": cpu_us}
            peer.call(queue.Delete(queue=NAMES[persistent]), queue.DeleteOk)
    with _connect(url) as peer:
        for name, persistent, one in [("publish_confirm", True, _confirm_one), ("publish_deliver", False, _deliver_one)]:
            frames = _prepare(peer, persistent=persistent, body_bytes=body_bytes)
            if not persistent:
                peer.call(basic.Consume(queue=NAMES[False], no_ack=True), basic.ConsumeOk)
            times_ms = sorted(_time_ms(one, peer, frames) for _ in range(SINGLES))
            figures |= {f"{name}_p50_ms": statistics.median(times_ms), f"{name}_p99_ms": times_ms[SINGLES * 99 // 100]}
            peer.call(queue.Delete(queue=NAMES[persistent]), queue.DeleteOk)
    return BrokerFigures(**figures)


def _connect(url: str) -> Peer:
    found = parse_url(url)
    return Peer(found.port, host=found.host, username=found.username, password=found.password, vhost=found.vhost, timeout_s=60.0)


def _prepare(peer: Peer, *, persistent: bool, body_bytes: int) -> bytes:
    """Make an empty queue, ask for confirms, and return the frames of one message to it."""
    name = NAMES[persistent]
    peer.call(queue.Delete(queue=name), queue.DeleteOk)
    peer.declare(name, durable=persistent)
    peer.confirm_select()
    header = encode_header(body_bytes, BasicProperties(delivery_mode=2 if persistent else 1, content_type="application/json"))
    return publish_frames(1, b"\0" + encode_shortstr(name, "routing-key"), 0, header, bytes(body_bytes), peer.engine.frame_max)


def _publish(peer: Peer, frames: bytes, count: int) -> None:
    chunk, sent, first = frames * CHUNK, 0, peer.confirmed
    while sent < count:
        while sent - (peer.confirmed - first) > WINDOW - CHUNK:
            peer.pump()
        peer.socket.sendall(chunk)
        sent += CHUNK
    peer.wait_confirmed(first + sent)


def _deliver_ack(peer: Peer, frames: bytes, count: int) -> None:
    peer.call(basic.Qos(prefetch_count=PREFETCH), basic.QosOk)
    name = next(name for name in NAMES.values() if name.encode() in frames)
    peer.send(basic.Consume(queue=name))
    received = 0
    while received < count:
        peer.pump()
        if peer.deliveries:
            received += len(peer.deliveries)
            peer.ack(peer.deliveries[-1][3], multiple=True)
            peer.deliveries.clear()
    peer.receive(basic.ConsumeOk)
    # The last acknowledgement is obeyed before the answer to this.
    assert peer.count(name) == 0


def _confirm_one(peer: Peer, frames: bytes) -> None:
    confirmed = peer.confirmed
    peer.socket.sendall(frames)
    peer.wait_confirmed(confirmed + 1)


def _deliver_one(peer: Peer, frames: bytes) -> None:
    confirmed = peer.confirmed
    peer.socket.sendall(frames)
    peer.wait_delivered(1)
    peer.wait_confirmed(confirmed + 1)


def _timed(work: Callable[[], None], count: int, pid: int) -> tuple[float, float]:
    """Return messages per second, and microseconds of the broker's processor time per message."""
    cpu_s, start_s = _cpu_s(pid), time.perf_counter()
    work()
    return count / (time.perf_counter() - start_s), (_cpu_s(pid) - cpu_s) / count * 1e6


def _time_ms(one: Callable[[Peer, bytes], None], peer: Peer, frames: bytes) -> float:
    start_s = time.perf_counter()
    one(peer, frames)
    return (time.perf_counter() - start_s) * 1000


def _cpu_s(pid: int) -> float:
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def main() -> None:
    """Print a small table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the broker, such as amqp://guest:guest@127.0.0.1:5672//")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of each body")
    parser.add_argument("--pid", type=int, default=0, help="the broker's process, for its processor time")
    options = parser.parse_args()
    figures = dataclasses.asdict(
        measure(options.url, messages=options.messages // CHUNK * CHUNK, body_bytes=options.size, pid=options.pid)
    )
    print(f"{options.messages:,} messages of {options.size} bytes, window {WINDOW}, prefetch {PREFETCH}\n")
    print(f"{'':28}{'publish, confirmed':>20}{'deliver + ack':>20}")
    for kind in ("durable", "transient"):
        rates = [figures[f"{kind}_{name}"] for name in ("publish", "deliver_ack")]
        print(f"{kind + ', per second':28}" + "".join(f"{rate:20,.0f}" for rate in rates))
        if options.pid:
            times = [figures[f"{kind}_{name}_cpu_us"] for name in ("publish", "deliver_ack")]
            print(f"{'  broker, µs a message':28}" + "".join(f"{each:20.1f}" for each in times))
    print(f"\n{'one alone, ms':28}{'p50':>20}{'p99':>20}")
    for label, name in [("durable publish to confirm", "publish_confirm"), ("publish to deliver", "publish_deliver")]:
        print(f"{label:28}" + "".join(f"{figures[f'{name}_{rank}_ms']:20.2f}" for rank in ("p50", "p99")))


if __name__ == "__main__":
    main()
