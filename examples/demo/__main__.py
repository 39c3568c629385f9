"""Run the demo: ``make demo``, or ``python -m examples.demo --help``."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo.tasks import SourceFacts, analyse, app
from leveret import Result, as_completed
from leveret.broker import local
from leveret.errors import LeveretError

HOME = Path(".cache/demo").resolve()
BROKEN_ON_PURPOSE = ("bad_coding", "badsyntax_", "lib2to3/tests/data")
BROKEN_SOURCE = "def broken(:\n    the demo brought this file, because this Python has no broken one\n"
UPLOAD_SOURCE = "# This file arrived while its task was already waiting for it.\nprint('here at last')\n"
UPLOAD_AFTER = 0.05
"""The part of the results that is in when the late file arrives."""
STOP_S = 0.8
"""How long the worker, and then the broker, may take to stop before it is killed."""
HISTOGRAM_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
BAR_WIDTH = 50


@dataclass
class Failure:
    """A file whose task failed, and why."""

    path: str
    error: BaseException


@dataclass
class Outcome:
    """What came back."""

    facts: list[SourceFacts] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Every Python file of the standard library as a task.")
    parser.add_argument("--limit", type=int, help="take only so many files")
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 1, help="child processes of the worker")
    options = parser.parse_args(arguments)
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption)
    try:
        return run(console, limit=options.limit, concurrency=options.concurrency)
    except KeyboardInterrupt:
        console.print("\n[yellow]Interrupted; worker and broker are stopped.[/]")
        return 130
    except LeveretError as error:
        console.print(f"[red]error:[/] {error}")
        return 1


def run(console: Console, *, limit: int | None, concurrency: int) -> int:
    """Start broker and worker, send, gather, show."""
    os.environ["LEVERET_HOME"] = os.fspath(HOME)
    os.environ["LEVERET_LOCAL_IDLE_S"] = "10"  # should this program be killed, nothing stays behind for long
    os.environ.pop("LEVERET_BROKER_URL", None)
    with broker(console), worker(console, concurrency) as process:
        paths = source_files(limit)
        late = HOME / "uploads" / "late_upload.py"
        late.parent.mkdir(exist_ok=True)
        paths.insert(0, late)
        console.print(
            f"[bold]tasks[/]    {len(paths)} Python files of {sysconfig.get_path('stdlib')}, one of them not there yet\n"
        )
        outcome = work(console, process, paths, late)
    report(console, outcome, expected=len(paths))
    return 0 if len(outcome.facts) + len(outcome.failures) == len(paths) else 1


def source_files(limit: int | None) -> list[Path]:
    """List the standard library's files, with a broken one among them."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "dist-packages"} & set(path.parts)]
    is_broken = [any(mark in os.fspath(path) for mark in BROKEN_ON_PURPOSE) for path in found]
    if limit is not None:
        broken = [path for path, bad in zip(found, is_broken, strict=True) if bad][: max(1, limit // 20)]
        found = sorted({*found[: limit - len(broken)], *broken})
    if not any(is_broken):
        own = HOME / "badsyntax_demo.py"
        own.write_text(BROKEN_SOURCE)
        found.append(own)
    return found


# ------------------------------------------------------------------------------------------- broker and worker


class Interruption:
    """Ctrl-C and SIGTERM: raises at once, and can be asked later, should the exception have been lost in a destructor."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Be the handler."""
        self.came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise if it came."""
        if self.came:
            raise KeyboardInterrupt


interruption = Interruption()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C waiting until a start or a stop is complete, so that nothing is left half started."""
    waiting: list[int] = []
    handlers = {number: signal.signal(number, lambda n, _: waiting.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if waiting:
            raise KeyboardInterrupt


@contextmanager
def broker(console: Console) -> Iterator[None]:
    """Start the embedded broker on an empty folder; stop it at the end."""
    try:
        with uninterrupted():
            local.stop(HOME, timeout_s=STOP_S)  # of a run that was killed
            shutil.rmtree(HOME, ignore_errors=True)
            url = local.find_or_start(app.name, home=HOME)
        running = local.find(HOME)
        assert running is not None
        console.print(f"[bold]broker[/]   {url.safe}  (embedded, process {running.pid})")
        console.print(f"[bold]data[/]     {running.data}")
        yield
    finally:
        with uninterrupted():
            app.close()
            left = local.find(HOME)
            try:
                local.stop(HOME, timeout_s=STOP_S)
            except LeveretError:
                if left is not None:
                    os.kill(left.pid, signal.SIGKILL)


@contextmanager
def worker(console: Console, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``leveret worker``; stop it at the end."""
    command = ["leveret", "worker", "--app=examples.demo.tasks:app", "--pool=process", f"--concurrency={concurrency}"]
    log = HOME / "worker.log"
    console.print(f"[bold]worker[/]   {' '.join(command)}  (log: {log})", soft_wrap=True)
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted(), open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "leveret.cli.main", *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this program, which then stops the worker
            )
        yield process
    finally:
        if process is not None:
            with uninterrupted():
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


# -------------------------------------------------------------------------------------------------- the job


def work(console: Console, process: subprocess.Popen[bytes], paths: Sequence[Path], late: Path) -> Outcome:
    """Send every file and gather the results as they come."""
    outcome = Outcome()
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    started_s = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        sending = progress.add_task("sending", total=len(paths), note="")
        running = progress.add_task("running", total=len(paths), note="")
        results: list[Result[SourceFacts]] = []
        path_of: dict[str, str] = {}
        for path in paths:
            interruption.check()
            result = analyse.delay(os.fspath(path))
            results.append(result)
            path_of[result.id] = os.fspath(path)
            progress.advance(sending)
        sent_s = time.perf_counter() - started_s
        progress.update(sending, note=f"{len(paths) / sent_s:.0f}/s, each confirmed")
        for count, result in enumerate(gather(process, results), start=1):
            interruption.check()
            try:
                outcome.facts.append(result.get(timeout=10))
            except Exception as error:  # whatever a task raises comes back here, and is what the demo lists
                outcome.failures.append(Failure(path_of[result.id], error))
            if count >= UPLOAD_AFTER * len(paths) and not late.exists():
                late.write_text(UPLOAD_SOURCE)
            rate = count / (time.perf_counter() - started_s)
            progress.update(running, completed=count, note=f"{rate:.0f}/s, {len(outcome.failures)} failed")
    outcome.seconds = time.perf_counter() - started_s
    return outcome


def gather(process: subprocess.Popen[bytes], results: Sequence[Result[SourceFacts]]) -> Iterator[Result[SourceFacts]]:
    """Yield the results as they come, and notice when the worker is gone."""
    remaining = {result.id: result for result in results}
    while remaining:
        try:
            for result in as_completed(list(remaining.values()), timeout=2):
                del remaining[result.id]
                yield result
        except TimeoutError:
            if process.poll() is not None:
                lines = (HOME / "worker.log").read_text(errors="replace").strip().splitlines()
                raise LeveretError(
                    f"the worker ended with exit code {process.returncode}: {lines[-1] if lines else ''}"
                ) from None


# --------------------------------------------------------------------------------------------------- the end


def report(console: Console, outcome: Outcome, *, expected: int) -> None:
    """Show tables, histogram, throughput and failures."""
    console.print()
    table = new_table("Most complex modules", "module", "complexity", "lines", "functions", "classes", "digest")
    for facts in sorted(outcome.facts, key=lambda facts: facts.complexity, reverse=True)[:8]:
        counts = (facts.complexity, facts.lines, facts.functions, facts.classes)
        table.add_row(short(facts.path), *map(str, counts), facts.digest)
    console.print(table)
    table = new_table("Slowest tasks", "module", "time", "lines")
    for facts in sorted(outcome.facts, key=lambda facts: facts.seconds, reverse=True)[:5]:
        table.add_row(short(facts.path), f"{facts.seconds * 1000:.0f} ms", str(facts.lines))
    console.print(table)
    histogram(console, [facts.seconds * 1000 for facts in outcome.facts])
    if outcome.failures:
        table = new_table(f"Failed: {len(outcome.failures)}, not retried, as no try would help", "file", "error")
        for failure in sorted(outcome.failures, key=lambda failure: failure.path):
            table.add_row(short(failure.path), f"{type(failure.error).__name__}: {first_line(failure.error)}")
        console.print(table)
    for facts in outcome.facts:
        if facts.attempts > 1:
            console.print(f"Retried: {short(facts.path)} was not there at first; done at try {facts.attempts}")
    done = len(outcome.facts) + len(outcome.failures)
    lines = sum(facts.lines for facts in outcome.facts)
    console.print(
        f"[bold]{done} of {expected} tasks in {outcome.seconds:.1f} s: {done / outcome.seconds:.0f} tasks/s[/]; "
        f"{len(outcome.facts)} succeeded, {len(outcome.failures)} failed; {lines:,} lines parsed",
        soft_wrap=True,
    )


def new_table(title: str, first: str, *others: str) -> Table:
    """Make a table whose first column is never cut."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("digest", "error") else "right")
    return table


def histogram(console: Console, durations_ms: Sequence[float]) -> None:
    """Draw how long the tasks took."""
    console.print("[bold]Task durations[/]")
    edges = (0, *HISTOGRAM_MS, float("inf"))
    counts = [sum(low <= value < high for value in durations_ms) for low, high in pairwise(edges)]
    largest = max([*counts, 1])
    for high, count in zip(edges[1:], counts, strict=True):
        label = f"< {high:>4} ms" if high != float("inf") else f"≥ {HISTOGRAM_MS[-1]:>4} ms"
        console.print(f"{label}  [green]{'█' * round(BAR_WIDTH * count / largest)}[/] {count}")
    console.print()


def short(path: str) -> str:
    """Show a path below the standard library without the way there."""
    root = sysconfig.get_path("stdlib") + os.sep
    return path.removeprefix(root).removeprefix(os.fspath(HOME) + os.sep)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [""])[0]


if __name__ == "__main__":
    sys.exit(main())
