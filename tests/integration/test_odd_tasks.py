"""Tasks that do odd things: each costs itself at the most, and the next runs as if nothing had been."""

from __future__ import annotations

import threading
import time

import pytest

from leveret import EncodingError, Result, TaskFailed
from tests.support.worker import Workshop

PATIENCE_S = 20.0


def test_whatever_a_task_returns_or_raises_the_worker_goes_on(workshop: Workshop) -> None:
    """One child, one task after another: an answer for each, in words where there is no value, and the same child to the end."""
    workshop.start_worker("--concurrency=1")
    children = workshop.children()
    jobs = workshop.jobs
    for call, error, words in [
        (jobs.depart.delay("bye"), TaskFailed, "SystemExit: bye"),
        (jobs.interrupt.delay(), TaskFailed, "KeyboardInterrupt"),
        (jobs.dive.delay(), RecursionError, "maximum recursion depth exceeded"),
        (jobs.count_up.delay(), EncodingError, "the result of jobs.count_up cannot be stored: generator has no JSON form"),
        (jobs.fill.delay(140_000_000), EncodingError, "134,217,728 are the most; keep it in a file or a database"),
    ]:
        with pytest.raises(error, match=words):
            call.get(timeout=PATIENCE_S)
    text = "héllo ☃ 🐇 \0 \u202e"
    assert jobs.turn_around.delay(text).get(timeout=PATIENCE_S) == text[::-1]
    assert jobs.read.delay().get(timeout=PATIENCE_S) == ""
    assert len(jobs.fill.delay(30_000_000).get(timeout=PATIENCE_S)) == 30_000_000
    assert workshop.children() == children
    workshop.wait_for_ready(0)
    assert "died" not in workshop.said()


def test_what_a_task_prints_is_there_at_once(workshop: Workshop) -> None:
    """Into a file or a pipe, too: whoever follows the worker's output need not wait until a buffer is full."""
    workshop.environment.pop("PYTHONUNBUFFERED", None)
    workshop.start_worker("--concurrency=1")
    workshop.jobs.say.delay("hello from a task").get(timeout=PATIENCE_S)
    workshop.wait_for_log("hello from a task")


def test_a_copy_forked_in_a_task_takes_no_work(workshop: Workshop) -> None:
    """A task that comes back in two processes has one result, and the tasks after it run in the worker's own child."""
    workshop.start_worker("--concurrency=1")
    assert workshop.jobs.split.delay().get(timeout=PATIENCE_S) == "original"
    assert [workshop.jobs.add.delay(number, 1).get(timeout=PATIENCE_S) for number in range(5)] == [1, 2, 3, 4, 5]
    assert "forked in a task, has come back from it" in workshop.said()
    assert workshop.stop_worker() == 0
    workshop.wait_for_ready(0)


def test_a_thread_left_behind_does_not_hold_the_worker_up(workshop: Workshop) -> None:
    """The next task runs beside it; when the worker stops, the child that Python would keep alive for it is ended."""
    workshop.start_worker("--concurrency=1")
    workshop.jobs.leave_thread.delay().get(timeout=PATIENCE_S)
    assert workshop.jobs.add.delay(1, 2).get(timeout=PATIENCE_S) == 3
    began_s = time.monotonic()
    assert workshop.stop_worker() == 0
    assert time.monotonic() - began_s < 8.0


def test_a_task_may_send_tasks_and_wait_for_them(workshop: Workshop) -> None:
    """From within a child, as from anywhere; it takes another child to run them."""
    workshop.start_worker("--concurrency=2")
    assert workshop.jobs.add_all.delay(5).get(timeout=PATIENCE_S) == 15


def test_eight_threads_send_and_wait_at_once(workshop: Workshop) -> None:
    """Each gets its own results."""
    workshop.start_worker("--concurrency=2")
    sums: list[int] = []

    def send(first: int) -> None:
        results: list[Result[int]] = [workshop.jobs.add.delay(first, number) for number in range(20)]
        sums.append(sum(result.get(timeout=PATIENCE_S) for result in results))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [20 * first + 190 for first in range(8)]


def test_two_workers_share_the_work(workshop: Workshop) -> None:
    """Tasks that block go to both, and each runs once."""
    for _ in range(2):
        workshop.start_worker("--concurrency=1")
    results = [workshop.jobs.hold.delay(str(workshop.folder), name) for name in ("one", "two")]
    processes = {workshop.wait_for_start(name) for name in ("one", "two")}
    workshop.let_go("one", "two")
    assert [result.get(timeout=PATIENCE_S) for result in results] == [0, 0]
    assert processes == {*workshop.children(0), *workshop.children(1)}
