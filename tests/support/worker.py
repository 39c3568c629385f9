"""A real worker as a process, on the app ``tests.integration.jobs``, and what a test wants to know of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

import pika

from tests.support.processes import last_lines, start_process, stop_process
from tests.support.waiting import wait_until

__all__ = ["Workshop", "is_alive", "ready_count"]

ROOT: Final = Path(__file__).parents[2]
_JOBS: Final = ROOT / "tests" / "integration" / "jobs.py"
_PATIENCE_S: Final = 20.0


def ready_count(url: str, queue: str) -> int:
    """Return the number of messages in a queue that nobody has been given; 0 when there is no such queue."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
    except pika.exceptions.ChannelClosedByBroker:
        return 0
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Workshop:
    """A folder, a queue of its own on a broker, workers started there, and the app to send them tasks."""

    def __init__(self, folder: Path, url: str, queue: str, settings: Mapping[str, object] | None = None) -> None:
        self.folder = folder
        self.url = url
        self.queue = queue
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEVERET_")},
            "LEVERET_HOME": os.fspath(folder / "home"),
            "LEVERET_BROKER_URL": url,
            "JOBS_QUEUE": queue,
            "JOBS_SETTINGS": json.dumps(settings or {}),
        }
        self.jobs = self._load_jobs()
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, *options: str, wait: bool = True, app: str = "tests.integration.jobs:app") -> subprocess.Popen[bytes]:
        """Start ``leveret worker``; return once it says that it is ready."""
        number = len(self._workers)
        program = Path(sys.executable).parent / "leveret"
        worker = start_process(
            [program, "worker", f"--app={app}", "--hostname", f"worker{number}@test", *options],
            log=self.log(number),
            environment={**self.environment, "PYTHONPATH": os.fspath(ROOT)},
            folder=self.folder,
        )
        self._workers.append(worker)
        if wait:
            self.wait_for_log(f"worker{number}@test is ready", number)
        return worker

    def log(self, number: int = 0) -> Path:
        """Return the file with what a worker said."""
        return self.folder / f"worker{number}.log"

    def said(self, number: int = 0) -> str:
        """Return what a worker has said."""
        return self.log(number).read_text(errors="replace")

    def wait_for_log(self, text: str, number: int = 0) -> None:
        """Wait until a worker has said something; fail at once when it has ended."""

        def has_said() -> bool:
            if text in self.said(number):
                return True
            assert self._workers[number].poll() is None, f"the worker has ended:\n{last_lines(self.log(number))}"
            return False

        wait_until(has_said, _PATIENCE_S, f"the worker to say {text!r}")

    def children(self, number: int = 0) -> list[int]:
        """Return the process ids of a worker's children."""
        pid = self._workers[number].pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait_for_start(self, name: str, *, crashes: int = 0) -> int:
        """Wait until ``jobs.hold`` runs under a name, after so many crashes; return the process that runs it."""
        path = self.folder / f"{name}.{crashes}"
        wait_until(path.exists, _PATIENCE_S, f"task {name} to start, its crashes being {crashes}")
        return int(path.read_text())

    def let_go(self, *names: str) -> None:
        """Let ``jobs.hold`` of these names return."""
        for name in names:
            (self.folder / f"{name}.go").touch()

    def notes(self) -> list[str]:
        """Return what ``jobs.note`` has written."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "notes").read_text().split()
        return []

    def wait_for_notes(self, count: int) -> list[str]:
        """Wait until there are so many notes."""
        return wait_until(lambda: notes if len(notes := self.notes()) >= count else None, _PATIENCE_S, f"{count} notes") or []

    def wait_for_ready(self, count: int, queue: str | None = None) -> None:
        """Wait until so many messages lie in a queue, given to nobody."""
        queue = queue or self.queue
        wait_until(lambda: ready_count(self.url, queue) == count, _PATIENCE_S, f"{count} messages in {queue}")

    def stop_worker(self, number: int = 0, *, first_signal: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> int:
        """Signal a worker, wait for its end and return its exit code."""
        return stop_process(self._workers[number], grace_s=grace_s, first_signal=first_signal)

    def close(self) -> None:
        """End everything; no worker or child is left."""
        self.jobs.app.close()
        for worker in self._workers:
            stop_process(worker, grace_s=0.0, first_signal=signal.SIGKILL)

    def _load_jobs(self) -> ModuleType:
        """Import the jobs anew, with this workshop's environment: another test's app has other settings."""
        spec = importlib.util.spec_from_file_location("jobs_of_a_test", _JOBS)
        assert spec is not None
        assert spec.loader is not None
        jobs = importlib.util.module_from_spec(spec)
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            spec.loader.exec_module(jobs)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return jobs
