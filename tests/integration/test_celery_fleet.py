"""Side by side with real Celery on one broker: our calls run on its workers, its calls on ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret import App
from tests.support.brokers import Broker
from tests.support.processes import last_lines, start_process, stop_process
from tests.support.waiting import wait_until
from tests.support.worker import ROOT, Workshop

_PATIENCE_S = 30.0


@pytest.fixture
def celery_queue(broker: Broker, tmp_path: Path) -> Iterator[str]:
    """Run a Celery worker and name the queue it consumes."""
    queue = broker.name("fleet")
    log = tmp_path / "celery.log"
    options = ["--pool=solo", "--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel=INFO"]
    worker: subprocess.Popen[bytes] = start_process(
        [sys.executable, "-m", "celery", "--app=tests.integration.celery_jobs:app", "worker", *options],
        log=log,
        environment={**os.environ, "CELERY_JOBS_BROKER": broker.url, "CELERY_JOBS_QUEUE": queue, "PYTHONPATH": os.fspath(ROOT)},
        folder=tmp_path,
    )

    def is_ready() -> bool:
        assert worker.poll() is None, f"Celery's worker has ended:\n{last_lines(log)}"
        return " ready." in log.read_text(errors="replace")

    try:
        wait_until(is_ready, _PATIENCE_S, "Celery's worker")
        yield queue
    finally:
        stop_process(worker, grace_s=0.0, first_signal=signal.SIGKILL)


def test_our_calls_run_on_celerys_workers(broker: Broker, celery_queue: str) -> None:
    """Value, exception, headers and delay: a Celery worker does with our message what it does with its own."""
    with App("ours", broker=broker.url) as app:
        app.conf.task_default_queue = celery_queue

        @app.task(name="fleet.add")
        def add(x: int, y: int = 0) -> dict[str, object]:
            raise AssertionError

        @app.task(name="fleet.fail")
        def fail(text: str) -> None:
            """Exist in the producer only."""

        assert add.delay(2, y=3).get(timeout=_PATIENCE_S) == {"sum": 5, "retries": 0, "tenant": None}
        with pytest.raises(ValueError, match="boom") as caught:
            fail.delay("boom").get(timeout=_PATIENCE_S)
        assert "celery_jobs.py" in caught.value.__notes__[0]
        assert add.apply_async((1,), headers={"tenant": "eu"}).get(timeout=_PATIENCE_S)["tenant"] == "eu"
        started_s = time.monotonic()
        assert add.apply_async((1,), countdown=0.5).get(timeout=_PATIENCE_S)["sum"] == 1
        assert time.monotonic() - started_s >= 0.5


def test_celerys_calls_run_on_our_workers(workshop: Workshop) -> None:
    """Value, exception, expiry and delay: a Celery producer gets from us what it gets from its own workers."""
    workshop.start_worker("--concurrency=1")
    program = [sys.executable, "-m", "tests.integration.celery_calls", workshop.url, workshop.queue]
    output = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(output)
    assert found["value"] == 5
    assert found["exception"] == ["ValueError", "try 2", True]
    assert found["delayed"] == 2
    assert found["delay_s"] >= 0.9
    assert found["after one that has expired"] == 8
