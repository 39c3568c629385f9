"""The demo, as ``make demo`` runs it, on fewer files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import last_lines, start_process
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
END_S = 2.0
"""What the demo promises for Ctrl-C."""


class Demo:
    """One run of the demo, with its home below the test's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".cache" / "demo"
        self.log = folder / "demo.log"
        self.environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}

    def start(self, *, limit: int) -> subprocess.Popen[bytes]:
        """Start it."""
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "examples.demo", f"--limit={limit}"]
        return start_process(command, log=self.log, environment=self.environment, folder=self.folder)

    def text(self) -> str:
        """Return what it has printed so far."""
        return last_lines(self.log, count=1000) if self.log.exists() else ""

    def leftovers(self) -> list[str]:
        """List the processes that name its home on their command line or have their log there."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                shown = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                output = os.readlink(entry / "fd" / "2")
            except OSError:
                continue
            if os.fspath(self.home) in shown or os.fspath(self.home) in output:
                found.append(shown)
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """Prepare a run in an empty folder."""
    return Demo(tmp_path)


def test_the_demo_runs_every_file_and_lists_the_broken_ones(demo: Demo) -> None:
    """Every task is accounted for: broken files fail with their error, the late file is retried, the rest succeed."""
    process = demo.start(limit=60)
    assert process.wait(60) == 0, demo.text()
    shown = demo.text()
    assert "embedded" in shown
    assert os.fspath(demo.home / "data") in shown.replace("\n", "")
    assert "61 of 61 tasks in" in shown or "62 of 62 tasks in" in shown
    assert "SyntaxError" in shown
    assert "late_upload.py was not there at first; done at try" in shown
    assert demo.leftovers() == []


def began(demo: Demo) -> bool:
    """Tell whether it has said anything."""
    return "broker" in demo.text()


def has_worker(demo: Demo) -> bool:
    """Tell whether it has started its worker."""
    return (demo.home / "worker.log").exists()


def is_working(demo: Demo) -> bool:
    """Tell whether its worker runs tasks."""
    return "is ready" in last_lines(demo.home / "worker.log")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="reads /proc, which only Linux has")
@pytest.mark.parametrize("moment", [began, has_worker, is_working])
def test_ctrl_c_ends_everything_within_two_seconds(demo: Demo, moment: Callable[[Demo], bool]) -> None:
    """At whatever moment it comes, demo, worker and broker are gone in time, and a second run just works."""
    process = demo.start(limit=1500)
    wait_until(lambda: moment(demo) or process.poll() is not None, 20, "the demo to get there")
    started_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(END_S + 10) == 130, demo.text()
    assert time.monotonic() - started_s < END_S, demo.text()
    wait_until(lambda: demo.leftovers() == [], 1, "the last process to go")

    assert demo.start(limit=20).wait(60) == 0, demo.text()
