"""Children that die, and what it costs the tasks they had."""

from __future__ import annotations

import os
import re
import signal

import pytest

from leveret import WorkerLost
from tests.integration.conftest import MakeWorkshop
from tests.support.waiting import wait_until
from tests.support.worker import Workshop, is_alive


def test_a_killed_childs_task_runs_again_and_knows_it(workshop: Workshop) -> None:
    """SIGKILL in the middle of a task costs it one crash; it runs again on a new child and finishes."""
    workshop.start_worker("--concurrency=1")
    result = workshop.jobs.hold.delay(str(workshop.folder), "victim")
    os.kill(workshop.wait_for_start("victim"), signal.SIGKILL)
    workshop.wait_for_start("victim", crashes=1)
    workshop.let_go("victim")
    assert result.get(timeout=20) == 1
    assert "crash 1 of 3" in workshop.said()
    assert len(workshop.children()) == 1


def test_tasks_that_were_not_started_are_not_counted(make_workshop: MakeWorkshop) -> None:
    """When a child dies, the tasks behind the running one run elsewhere with no crash to their name."""
    workshop = make_workshop(worker_prefetch_multiplier=10)
    workshop.start_worker("--concurrency=1")
    first = workshop.jobs.hold.delay(str(workshop.folder), "first")
    pid = workshop.wait_for_start("first")
    others = [workshop.jobs.hold.delay(str(workshop.folder), name) for name in ("second", "third")]
    workshop.wait_for_ready(0)
    workshop.let_go("first", "second", "third")
    os.kill(pid, signal.SIGKILL)
    assert first.get(timeout=20) in (0, 1)  # the file may let it go before the signal comes
    assert [result.get(timeout=20) for result in others] == [0, 0]


@pytest.mark.parametrize(("task", "args", "death"), [("leave", (7,), "exit code 7"), ("segfault", (), "SIGSEGV")])
def test_a_crash_loop_ends_in_a_stored_failure(make_workshop: MakeWorkshop, task: str, args: tuple[int], death: str) -> None:
    """At the limit a message is given up: the caller learns how its process died, and other tasks go on."""
    workshop = make_workshop(task_crash_limit=2)
    workshop.start_worker("--concurrency=1")
    result = getattr(workshop.jobs, task).delay(*args)
    with pytest.raises(WorkerLost, match=f"{death}.*crash 2"):
        result.get(timeout=30)
    assert workshop.jobs.add.delay(1, 2).get(timeout=20) == 3
    workshop.wait_for_ready(0)


def test_a_lost_process_fails_its_task_at_once_where_the_setting_says_so(make_workshop: MakeWorkshop) -> None:
    """With ``task_reject_on_worker_lost`` false, as Celery has it, the first crash is the last."""
    workshop = make_workshop(task_reject_on_worker_lost=False)
    workshop.start_worker("--concurrency=1")
    with pytest.raises(WorkerLost, match="exit code 3"):
        workshop.jobs.leave.delay(3).get(timeout=20)


def test_a_task_acknowledged_early_is_not_run_again(workshop: Workshop) -> None:
    """``acks_late=False`` is at most once: a crash is a stored failure, and the queue is empty."""
    workshop.start_worker("--concurrency=1")
    result = workshop.jobs.early.delay(str(workshop.folder), "early")
    started = workshop.folder / "early"
    wait_until(lambda: started.exists() and started.read_text(), 20.0, "the task to start")
    os.kill(int(started.read_text()), signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        result.get(timeout=20)
    workshop.stop_worker()
    workshop.wait_for_ready(0)


def test_a_killed_supervisor_leaves_no_children(workshop: Workshop) -> None:
    """SIGKILL of the supervisor ends its children, though one is in the middle of a task; the task runs in the next worker."""
    worker = workshop.start_worker("--concurrency=2")
    result = workshop.jobs.hold.delay(str(workshop.folder), "orphan")
    workshop.wait_for_start("orphan")
    children = workshop.children()
    assert len(children) == 2
    worker.kill()
    worker.wait()
    wait_until(lambda: not any(map(is_alive, children)), 5.0, "the children to end")
    workshop.let_go("orphan")
    workshop.start_worker("--concurrency=1")
    assert result.get(timeout=20) == 0


def test_a_child_that_cannot_start_any_more_is_told_of_once(workshop: Workshop) -> None:
    """When the app breaks while the worker runs, a dead child's successor is tried again, less and less often, and told once."""
    package = workshop.folder / "shop.py"
    package.write_text("from tests.integration.jobs import app\n")
    workshop.start_worker("--concurrency=2", "--loglevel=debug", app="shop:app")
    for child in workshop.children():
        workshop.wait_for_log(f"child {child} is ready")
    package.write_text("raise RuntimeError('no luck')\n")
    os.kill(workshop.children()[0], signal.SIGKILL)
    workshop.wait_for_log("a child cannot start")
    assert workshop.jobs.add.delay(1, 2).get(timeout=20) == 3  # the other child works on
    package.write_text("from tests.integration.jobs import app\n")
    wait_until(lambda: len(re.findall(r"child \d+ is ready", workshop.said())) == 3, 20.0, "the pool to be back to strength")
    assert workshop.said().count("a child cannot start") == 1
