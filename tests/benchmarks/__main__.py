"""Run every benchmark on the embedded broker and on RabbitMQ, each started for it: ``make bench``."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import bench_broker, bench_client, bench_codec, bench_engine, bench_tasks
from tests.support.brokers import Server
from tests.support.embedded import EmbeddedBroker
from tests.support.rabbitmq import RabbitMQ, missing_parts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MESSAGES = 50_000
TASKS = 20_000
CONCURRENCY = 2


def _servers(folder: Path) -> Iterator[tuple[str, Server]]:
    yield "The embedded broker", EmbeddedBroker(folder / "embedded")
    if missing := missing_parts():
        print(f"\nRabbitMQ is left out: {', '.join(missing)} not installed")
    else:
        yield "RabbitMQ", RabbitMQ(folder / "rabbitmq")


def _show(figures: DataclassInstance) -> None:
    for field in dataclasses.fields(figures):
        print(f"  {field.name:28}{getattr(figures, field.name):14,.2f}")


def main() -> None:
    """Print the figures, and the machine they are of."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()} {platform.release()}")
    print("\nThe codec alone")
    bench_codec.main()
    print("\nThe protocol engine alone")
    bench_engine.main()
    with tempfile.TemporaryDirectory() as folder:
        for name, server in _servers(Path(folder)):
            server.start()
            try:
                print(f"\n{name} from the wire: {MESSAGES:,} messages of 256 bytes")
                _show(bench_broker.measure(server.url(), messages=MESSAGES, pid=server.pid))
                print(f"\n{name} through the clients: {MESSAGES:,} messages")
                _show(bench_client.measure(server.url(), messages=MESSAGES))
                print(f"\n{name} with a worker: {TASKS:,} tasks, {CONCURRENCY} processes")
                _show(bench_tasks.measure(server.url(), tasks=TASKS, concurrency=CONCURRENCY))
            finally:
                server.stop()


if __name__ == "__main__":
    main()
