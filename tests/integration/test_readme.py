"""The README's commands and code, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret.broker import local
from leveret.errors import ArgumentsError
from tests.support.processes import last_lines, start_process, stop_process
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str, containing: str) -> str:
    """Return the README's code block in this language that contains the text; exactly one must."""
    found = [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in code]
    assert len(found) == 1, f"{len(found)} blocks of {language} in the README contain {containing!r}"
    return str(found[0])


class QuickStart:
    """A newcomer's folder with ``tasks.py``, two terminals, and a home of its own for the local broker."""

    def __init__(self, folder: Path, broker_url: str | None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.log = folder / "worker.log"
        (folder / "tasks.py").write_text(blocks("python", 'App("quickstart")'))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEVERET_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LEVERET_HOME": os.fspath(self.home),
        }
        if broker_url is not None:
            self.environment["LEVERET_BROKER_URL"] = broker_url
        self._worker: subprocess.Popen[bytes] | None = None

    def start_worker(self) -> None:
        """Type the README's command in the first terminal."""
        command = blocks("sh", "leveret worker").split()
        self._worker = start_process(command, log=self.log, environment=self.environment, folder=self.folder)

    def await_worker(self) -> None:
        """Wait until the worker says that it is ready."""
        worker = self._worker
        assert worker is not None
        wait_until(lambda: "ready" in last_lines(self.log) or worker.poll() is not None, 15, "the worker to be ready")
        assert worker.poll() is None, last_lines(self.log)

    def prompt(self) -> subprocess.CompletedProcess[str]:
        """Run the README's prompt session; doctest compares what it prints."""
        session = self.folder / "session.txt"
        session.write_text(blocks("python", ">>> cpu_bound.delay(1)"))
        return subprocess.run(
            [sys.executable, "-m", "doctest", "session.txt"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def stop(self) -> None:
        """Close the first terminal, and end the local broker."""
        if self._worker is not None:
            stop_process(self._worker, grace_s=10)
        local.stop(self.home)


@pytest.fixture
def embedded_quick_start(tmp_path: Path) -> Iterator[QuickStart]:
    """Prepare a folder where nothing is configured."""
    quick_start = QuickStart(tmp_path, None)
    yield quick_start
    quick_start.stop()


@pytest.fixture
def rabbitmq_quick_start(tmp_path: Path, rabbitmq_url: str) -> Iterator[QuickStart]:
    """Prepare a folder where the variable names a RabbitMQ."""
    quick_start = QuickStart(tmp_path, rabbitmq_url)
    yield quick_start
    quick_start.stop()


def run_in_either_order(quick_start: QuickStart) -> None:
    """Run the quick start, the worker first, then the prompt first."""
    quick_start.start_worker()
    quick_start.await_worker()
    first = quick_start.prompt()
    assert first.returncode == 0, first.stdout + first.stderr + last_lines(quick_start.log)
    quick_start.stop()
    quick_start.log.unlink()

    # The other way round: the call waits for its result while the worker starts.
    session = subprocess.Popen(
        [sys.executable, "-c", "from tasks import cpu_bound; print(cpu_bound.delay(1).get(timeout=20))"],
        cwd=quick_start.folder,
        env=quick_start.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    quick_start.start_worker()
    printed, _ = session.communicate(timeout=30)
    assert printed.strip() == "333328333350000", last_lines(quick_start.log)


def test_the_quick_start_works_with_no_broker_configured(embedded_quick_start: QuickStart) -> None:
    """Worker first or prompt first, the one that needs the local broker starts it and the other finds it."""
    run_in_either_order(embedded_quick_start)
    assert (embedded_quick_start.home / "data").is_dir()


def test_the_quick_start_works_on_rabbitmq_by_one_variable(rabbitmq_quick_start: QuickStart) -> None:
    """``LEVERET_BROKER_URL`` is all that changes; no local broker is started."""
    run_in_either_order(rabbitmq_quick_start)
    assert local.find(rabbitmq_quick_start.home) is None


def test_the_tasks_example_says_the_truth() -> None:
    """The example runs as it stands, a plain call is a plain call, and wrong arguments are an ArgumentsError."""
    namespace: dict[str, object] = {"__name__": "shop"}
    exec(compile(blocks("python", "def charge"), "README.md", "exec"), namespace)
    charge = namespace["charge"]
    assert charge(7, 9.5) == "7: 9.50"  # type: ignore[operator]  # a task, which exec cannot tell
    with pytest.raises(ArgumentsError):
        charge.delay("x", 1, 2)  # type: ignore[attr-defined]  # a task, which exec cannot tell


def test_every_command_of_the_readme_exists() -> None:
    """Each ``make`` target and each ``leveret`` command that the README names is there."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the README names `make {target}`"
    for command in set(re.findall(r"`leveret (\w+ \w+|\w+)", README)):
        shown = subprocess.run(
            [sys.executable, "-m", "leveret.cli.main", *command.split(), "--help"], capture_output=True, text=True, timeout=30
        )
        assert shown.returncode == 0, f"the README names `leveret {command}`: {shown.stderr}"


def test_every_file_the_readme_links_to_exists() -> None:
    """A relative link leads somewhere."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
