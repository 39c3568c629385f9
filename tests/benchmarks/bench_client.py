"""The clients against one broker, beside pika: ``python -m tests.benchmarks.bench_client --url URL``.

Messages of 256 bytes, persistent, in a durable queue; every publish is confirmed, and mandatory where it is single.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pika

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Queue
from leveret.amqp.uris import parse_url
from leveret.client.asynchronous import AsyncClient, Delivery
from leveret.client.blocking import BlockingClient

__all__ = ["ClientFigures", "measure"]

QUEUE: Final = "leveret-bench-client"
BODY: Final = b"x" * 256
HEADER: Final = encode_header(len(BODY), BasicProperties(delivery_mode=2, content_type="application/json"))
TIMEOUT_S: Final = 60.0
SINGLES: Final = 2000
THREADS: Final = 8
PREFETCH: Final = 500


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """What one broker gave; rates per second, times in milliseconds."""

    publish_many: float
    publish_many_cpu_us: float
    publish_8_threads: float
    publish_p50_ms: float
    publish_p99_ms: float
    pika_publish_p50_ms: float
    pika_publish_p99_ms: float
    async_publish: float
    async_deliver_ack: float


def measure(url: str, *, messages: int) -> ClientFigures:
    """Run all the measurements on one broker."""
    client = BlockingClient(lambda: [parse_url(url)])
    client.declare([Queue(QUEUE)], TIMEOUT_S)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
    try:
        # Alternating, so that what the machine does meanwhile hits both alike.
        ours, pikas = [], []
        for _ in range(4):
            ours += _times(lambda: client.publish("", QUEUE, HEADER, BODY, timeout_s=TIMEOUT_S))
            pikas += _times(lambda: channel.basic_publish("", QUEUE, BODY, properties, mandatory=True))
        in_threads = _rate(THREADS * SINGLES // 4, lambda: _publish_in_threads(client))
        channel.queue_purge(QUEUE)
        cpu_s = time.process_time()
        many = _rate(messages, lambda: client.publish_many([("", QUEUE, HEADER, BODY)] * messages, timeout_s=TIMEOUT_S))
        cpu_s = time.process_time() - cpu_s
        channel.queue_purge(QUEUE)
        publish, deliver = asyncio.run(_asynchronous(url, messages))
        return ClientFigures(
            publish_many=many,
            publish_many_cpu_us=cpu_s / messages * 1e6,
            publish_8_threads=in_threads,
            publish_p50_ms=statistics.median(ours),
            publish_p99_ms=statistics.quantiles(ours, n=100)[98],
            pika_publish_p50_ms=statistics.median(pikas),
            pika_publish_p99_ms=statistics.quantiles(pikas, n=100)[98],
            async_publish=publish,
            async_deliver_ack=deliver,
        )
    finally:
        channel.queue_delete(QUEUE)
        connection.close()
        client.close()


def _rate(count: int, action: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    action()
    return count / (time.perf_counter() - started_s)


def _times(action: Callable[[], object]) -> list[float]:
    """Return what each of a quarter of the singles took, in milliseconds."""
    times = []
    for _ in range(SINGLES // 4):
        started_s = time.perf_counter()
        action()
        times.append((time.perf_counter() - started_s) * 1e3)
    return times


def _publish_in_threads(client: BlockingClient) -> None:
    def publish() -> None:
        for _ in range(SINGLES // 4):
            client.publish("", QUEUE, HEADER, BODY, timeout_s=TIMEOUT_S)

    threads = [threading.Thread(target=publish) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _asynchronous(url: str, messages: int) -> tuple[float, float]:
    """Return the rates of publishing and of delivering with an acknowledgement for each."""
    client = await AsyncClient.connect(parse_url(url), on_closed=lambda error: None, timeout_s=TIMEOUT_S)
    one = await client.open_channel()
    await one.confirm_select()
    started_s = time.perf_counter()
    window: list[asyncio.Future[None]] = []
    for _ in range(messages):
        window.append(one.publish("", QUEUE, HEADER, BODY, mandatory=True))
        if len(window) == 2 * PREFETCH:
            await asyncio.gather(*window[:PREFETCH])
            del window[:PREFETCH]
    await asyncio.gather(*window)
    published_s = time.perf_counter() - started_s

    done = asyncio.Event()
    left = messages

    def on_delivery(delivery: Delivery) -> None:
        nonlocal left
        one.ack(delivery.delivery_tag)
        left -= 1
        if not left:
            done.set()

    started_s = time.perf_counter()
    await one.consume(QUEUE, on_delivery, prefetch_count=PREFETCH)
    await asyncio.wait_for(done.wait(), TIMEOUT_S)
    delivered_s = time.perf_counter() - started_s
    await client.close()
    return messages / published_s, messages / delivered_s


def main() -> None:
    """Measure the broker of ``--url``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    figures = measure(options.url, messages=options.messages)
    for field in dataclasses.fields(figures):
        print(f"  {field.name:24}{getattr(figures, field.name):12,.2f}")


if __name__ == "__main__":
    main()
