"""Pools of real child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from leveret.pools.child import Handles
from leveret.pools.link import EXIT_COPY
from leveret.pools.pool import Pool, StartProblem
from leveret.pools.process import ChildProcess, Exit
from leveret.pools.wire import Job
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).with_name("child_program.py")
Child = ChildProcess[bytes]


class Heard:
    """Records what a pool tells its owner, and lets a test wait for each kind of news."""

    def __init__(self) -> None:
        self._news: dict[str, asyncio.Queue[Any]] = {}

    def child_ready(self, child: Child, payload: bytes) -> None:
        """Record."""
        self._queue("ready").put_nowait((child, payload))

    def child_answered(self, child: Child, answers: list[tuple[int, bytes]]) -> None:
        """Record."""
        for answer in answers:
            self._queue("answered").put_nowait(answer)

    def child_recalled(self, child: Child, numbers: list[int]) -> None:
        """Record."""
        self._queue("recalled").put_nowait(numbers)

    def child_lost(self, child: Child, exit_: Exit, job_running: int) -> None:
        """Record."""
        self._queue("lost").put_nowait((child, exit_.returncode, job_running))

    def child_not_started(self, problem: StartProblem, *, retry_in_s: float | None) -> None:
        """Record."""
        self._queue("not started").put_nowait((problem, retry_in_s))

    async def next(self, kind: str) -> Any:
        """Wait for the next news of a kind."""
        return await asyncio.wait_for(self._queue(kind).get(), 20.0)

    def _queue(self, kind: str) -> asyncio.Queue[Any]:
        return self._news.setdefault(kind, asyncio.Queue())


def job(number: int, body: str) -> Job:
    """Make a job for the child program."""
    return Job(number, "q", False, b"", b"", body.encode())


def command(mode: str) -> Callable[[Handles], Sequence[str]]:
    """Return the command line of the child program."""
    return lambda handles: [sys.executable, str(PROGRAM), str(tuple(handles)), mode]


@asynccontextmanager
async def running_pool(size: int, mode: str = "serve") -> AsyncIterator[tuple[Pool[bytes], Heard]]:
    """Run a pool of the child program; at the end no child is left."""
    heard = Heard()
    decoder = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
    pool = Pool(command(mode), size=size, answers=decoder, events=heard)
    pool.start()
    try:
        yield pool, heard
    finally:
        pool.kill()
        await pool.stop(0.0)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_jobs_are_run_in_order() -> None:
    """A child runs what it is handed in that order, over several batches."""
    async with running_pool(1) as (_, heard):
        child, payload = await heard.next("ready")
        assert int(payload) == child.pid
        child.hand([job(1, "echo"), job(2, "echo")])
        child.hand([job(3, "echo")])
        assert [await heard.next("answered") for _ in range(3)] == [(1, b"echo"), (2, b"echo"), (3, b"echo")]


async def test_a_copy_that_a_job_forks_ends_when_it_comes_back() -> None:
    """A process has one reader of its socket: the copy neither answers nor takes the next job, and the child works on."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "fork"), job(2, "echo")])
        assert [await heard.next("answered") for _ in range(2)] == [(1, str(EXIT_COPY).encode()), (2, b"echo")]


async def test_a_large_job_passes_in_pieces() -> None:
    """A job larger than the socket's buffer is written as the child reads, without blocking the loop."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        body = "echo:" + "x" * 5_000_000
        child.hand([job(1, body)])
        child.hand([job(2, "echo")])
        assert await heard.next("answered") == (1, body.encode())
        assert await heard.next("answered") == (2, b"echo")


async def test_stop_lets_a_child_finish_what_it_has(tmp_path: Path) -> None:
    """An orderly stop waits for the running and the handed jobs, and the child exits with 0."""
    async with running_pool(1) as (pool, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, f"wait:{tmp_path / 'go'}"), job(2, "echo")])
        stopping = asyncio.ensure_future(pool.stop(20.0))
        (tmp_path / "go").touch()
        await stopping
        assert [(await heard.next("answered"))[0] for _ in range(2)] == [1, 2]
        assert (await heard.next("lost"))[1:] == (0, 0)


async def test_a_death_names_the_job_that_ran() -> None:
    """When a child dies, the job it was on is known exactly, the answers before it are heard, and it is replaced at once."""
    async with running_pool(1) as (pool, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "echo"), job(2, "kill"), job(3, "echo")])
        lost, returncode, job_running = await heard.next("lost")
        assert (lost, returncode, job_running) == (child, -signal.SIGKILL, 2)
        successor, _ = await heard.next("ready")
        assert pool.children == [successor]
        successor.hand([job(4, "exit:3")])
        assert (await heard.next("lost"))[1:] == (3, 4)


async def test_a_job_whose_answer_cannot_be_sent_is_the_one_that_ran() -> None:
    """The process dies of the answer, so of the job: one that was not counted would kill one child after another, for ever."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "close")])
        assert (await heard.next("lost"))[2] == 1


async def test_a_death_while_idle_names_no_job() -> None:
    """A child killed between jobs costs no job anything."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "echo")])
        await heard.next("answered")
        child.kill()
        assert (await heard.next("lost"))[1:] == (-signal.SIGKILL, 0)


async def test_nonsense_from_a_child_kills_it() -> None:
    """A child that writes what is no answer is killed, its job counted, and replaced."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "garbage")])
        assert (await heard.next("lost"))[1:] == (-signal.SIGKILL, 1)
        await heard.next("ready")


async def test_recall_reaches_a_child_inside_user_code(tmp_path: Path) -> None:
    """Jobs handed over but not started come back while a task keeps the child's main thread, GIL and all."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        held = tmp_path / "held"
        child.hand([job(1, "echo"), job(2, f"hold:{held}"), job(3, "echo"), job(4, "echo")])
        await asyncio.to_thread(wait_until, held.exists, 10.0, "the second job to start")
        child.recall()
        assert await heard.next("recalled") == [3, 4]
        assert await heard.next("answered") == (1, b"echo")
        held.unlink()
        assert (await heard.next("answered"))[0] == 2


async def test_recall_also_brings_the_answers_that_wait(tmp_path: Path) -> None:
    """An answer that waited for company leaves when the supervisor asks, though the next job holds the child."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        started = tmp_path / "started"
        child.hand([job(1, "echo"), job(2, f"started:{started}")])
        await asyncio.to_thread(wait_until, started.exists, 10.0, "the second job to start")
        child.recall()
        assert (await heard.next("answered"))[0] == 1


async def test_signals_of_the_terminal_do_nothing_to_a_child() -> None:
    """SIGINT and SIGTERM at a child are the supervisor's business: the child works on."""
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
        child.hand([job(1, "echo")])
        assert await heard.next("answered") == (1, b"echo")


async def test_a_pool_that_cannot_start_gives_up_once() -> None:
    """When no child could ever start, the pool says so with the child's own words, and does not try for ever."""
    async with running_pool(2, "refuse") as (_, heard):
        news = [await heard.next("not started") for _ in range(2)]
        assert [problem.payload for problem, _ in news] == [b"no such app"] * 2
        assert [retry_in_s is None for _, retry_in_s in news] == [False, True]


async def test_a_death_while_starting_says_how() -> None:
    """A child that dies before it is ready is a failed start, with its exit code."""
    async with running_pool(1, "die") as (_, heard):
        problem, retry_in_s = await heard.next("not started")
        assert problem.payload is None
        assert str(problem.exit) == "exit code 9"
        assert retry_in_s is None


async def test_children_start_together() -> None:
    """All children of a pool are started at once, and all become ready."""
    async with running_pool(4) as (pool, heard):
        for _ in range(4):
            await heard.next("ready")
        assert len({child.pid for child in pool.children}) == 4


async def test_a_child_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    """A supervisor killed with SIGKILL leaves no child behind, though a task holds the child's main thread."""
    pid_file, started = tmp_path / "pid", tmp_path / "started"
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.unit.pools.test_pool import job, running_pool
async def main():
    async with running_pool(1) as (_, heard):
        child, _ = await heard.next("ready")
        child.hand([job(1, "started:{started}")])
        Path("{pid_file}").write_text(str(child.pid))
        await heard.next("lost")
asyncio.run(main())
"""
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    await asyncio.to_thread(wait_until, started.exists, 20.0, "the child's job to start")
    pid = int(await asyncio.to_thread(wait_until, lambda: pid_file.exists() and pid_file.read_text(), 20.0, "the pid"))
    assert is_alive(pid)
    supervisor.kill()
    await supervisor.wait()
    await asyncio.to_thread(wait_until, lambda: not is_alive(pid), 5.0, "the child to die with its supervisor")
