"""Tasks per second through ``leveret worker``, and what ``.delay()`` takes: ``python -m tests.benchmarks.bench_tasks --url URL``.

The backlog is sent first; the worker (process pool, late acknowledgement, no-op tasks of a 100-byte argument) is timed
from its first task to the last, by the number of ready messages in the queue.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pika

from leveret.amqp.uris import parse_url
from leveret.client.blocking import BlockingClient
from leveret.ids import SystemIdSource
from leveret.tasks.message import TaskMessage, encode
from tests.support.processes import last_lines, start_process, stop_process

__all__ = ["TaskFigures", "measure"]

QUEUE: Final = "leveret-bench-tasks"
ARGUMENT: Final = "x" * 100
TIMEOUT_S: Final = 300.0
DELAYS: Final = 1000


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What one broker gave; rates per second, times in milliseconds."""

    sent_in_batch: float
    run_noop: float
    delay_p50_ms: float
    delay_p99_ms: float
    round_trip_p50_ms: float


def measure(url: str, *, tasks: int, concurrency: int) -> TaskFigures:
    """Run all the measurements on one broker."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_delete(QUEUE)
    channel.queue_declare(QUEUE, durable=True)
    sent_in_batch = _fill(url, tasks)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        command = [
            sys.executable,
            "-m",
            "leveret.cli.main",
            "worker",
            "--app=tests.benchmarks.noop:app",
            f"--concurrency={concurrency}",
        ]
        worker = start_process(command, log=log, environment={**os.environ, "LEVERET_BROKER_URL": url})
        try:
            run_noop = _drain_rate(channel, worker, log, tasks)
            delays, round_trips = _latencies(url)
        finally:
            stop_process(worker, grace_s=10)
    channel.queue_delete(QUEUE)
    channel.connection.close()
    return TaskFigures(
        sent_in_batch,
        run_noop,
        statistics.median(delays),
        statistics.quantiles(delays, n=100)[98],
        statistics.median(round_trips),
    )


def _fill(url: str, tasks: int) -> float:
    ids = SystemIdSource()

    def messages() -> Iterator[tuple[str, str, bytes, bytes]]:
        for _ in range(tasks):
            id_ = ids.task_id()
            header, body = encode(
                TaskMessage(id=id_, root_id=id_, task="tests.benchmarks.noop.noop", args=[ARGUMENT], ignore_result=True)
            )
            yield "", QUEUE, header, body

    client = BlockingClient(lambda: [parse_url(url)])
    started_s = time.perf_counter()
    client.publish_many(messages(), timeout_s=TIMEOUT_S)
    elapsed_s = time.perf_counter() - started_s
    client.close()
    return tasks / elapsed_s


def _drain_rate(
    channel: pika.adapters.blocking_connection.BlockingChannel, worker: subprocess.Popen[bytes], log: Path, tasks: int
) -> float:
    """Time the worker from the moment the queue begins to shrink until it is empty."""
    first: tuple[float, int] | None = None
    give_up_s = time.monotonic() + TIMEOUT_S
    for _ in itertools.count():
        ready = channel.queue_declare(QUEUE, passive=True).method.message_count
        now_s = time.perf_counter()
        if first is None and ready < tasks:
            first = (now_s, ready)
        if first is not None and ready == 0:
            return first[1] / (now_s - first[0])
        if worker.poll() is not None or time.monotonic() > give_up_s:
            raise RuntimeError(f"the worker did not run the backlog, {ready} of {tasks} are left:\n{last_lines(log)}")
        channel.connection.process_data_events(time_limit=0.01)
    raise AssertionError("unreachable")


def _latencies(url: str) -> tuple[list[float], list[float]]:
    """Time ``.delay()`` alone, then from ``.delay()`` to its result, one at a time, in milliseconds."""
    os.environ["LEVERET_BROKER_URL"] = url
    code = (
        "import json, time\n"
        "from tests.benchmarks.noop import app, echo, noop\n"
        "def timed(call):\n"
        "    started = time.perf_counter(); call(); return (time.perf_counter() - started) * 1000\n"
        f"text = {ARGUMENT!r}\n"
        "noop.delay(text); echo.delay(text).get(timeout=30)\n"
        f"delays = [timed(lambda: noop.delay(text)) for _ in range({DELAYS})]\n"
        f"trips = [timed(lambda: echo.delay(text).get(timeout=30)) for _ in range({DELAYS // 4})]\n"
        "print(json.dumps([delays, trips])); app.close()\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    delays, trips = json.loads(shown.stdout)
    return delays, trips


def main() -> None:
    """Measure one broker and print the figures."""
    parser = argparse.ArgumentParser(description="Tasks per second through leveret worker.")
    parser.add_argument("--url", required=True, help="the broker, amqp://user:password@host:port/vhost")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=2)
    options = parser.parse_args()
    print(measure(options.url, tasks=options.tasks, concurrency=options.concurrency))


if __name__ == "__main__":
    main()
