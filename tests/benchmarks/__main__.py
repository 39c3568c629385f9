"""Run every benchmark on the embedded broker and on RabbitMQ, each started for it: ``make bench``."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import bench_client, bench_codec, bench_engine, bench_tasks
from tests.support.brokers import Server
from tests.support.embedded import EmbeddedBroker
from tests.support.rabbitmq import RabbitMQ, missing_parts

MESSAGES = {"embedded": 50_000, "RabbitMQ": 20_000}
TASKS = {"embedded": 50_000, "RabbitMQ": 20_000}
CONCURRENCY = 2


def _servers(folder: Path) -> Iterator[tuple[str, Server]]:
    yield "embedded", EmbeddedBroker(folder / "embedded")
    if missing := missing_parts():
        print(f"\nRabbitMQ is left out: {', '.join(missing)} not installed")
    else:
        yield "RabbitMQ", RabbitMQ(folder / "rabbitmq")


def _show(figures: bench_client.ClientFigures | bench_tasks.TaskFigures) -> None:
    for field in dataclasses.fields(figures):
        print(f"  {field.name:24}{getattr(figures, field.name):12,.2f}")


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
                broker = f"{name} {'.'.join(map(str, server.version)) if name == 'RabbitMQ' else 'broker'}"
                print(f"\nThe clients on {broker}")
                _show(bench_client.measure(server.url(), messages=MESSAGES[name]))
                print(f"\nTasks on {broker}")
                _show(bench_tasks.measure(server.url(), tasks=TASKS[name], concurrency=CONCURRENCY))
            finally:
                server.stop()


if __name__ == "__main__":
    main()
