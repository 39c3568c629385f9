"""How a worker ends: nothing that runs is cut short before its time, nothing that waits is kept."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.integration.conftest import MakeWorkshop
from tests.support.waiting import wait_until
from tests.support.worker import Workshop, is_alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_idle_worker_ends_within_a_second(workshop: Workshop, number: signal.Signals) -> None:
    """Any of the three signals ends an idle worker with exit code 0 and without leftovers, at once."""
    workshop.start_worker("--concurrency=2")
    children = workshop.children()
    began_s = time.monotonic()
    assert workshop.stop_worker(first_signal=number) == 0
    assert time.monotonic() - began_s < 1.0
    assert not any(map(is_alive, children))
    assert " ERROR " not in workshop.said()


def test_a_warm_stop_finishes_what_runs_and_gives_back_the_rest_at_once(make_workshop: MakeWorkshop) -> None:
    """After SIGTERM the waiting tasks are in the queue again while the running one still runs; that one ends and is settled."""
    workshop = make_workshop(worker_prefetch_multiplier=4)
    worker = workshop.start_worker("--concurrency=1")
    running = workshop.jobs.hold.delay(str(workshop.folder), "running")
    workshop.wait_for_start("running")
    for name in ("a", "b", "c"):
        workshop.jobs.note.delay(str(workshop.folder), name)
    workshop.wait_for_ready(0)
    worker.send_signal(signal.SIGTERM)
    workshop.wait_for_ready(3)
    assert worker.poll() is None
    workshop.let_go("running")
    assert running.get(timeout=20) == 0
    assert worker.wait(timeout=10) == 0
    workshop.wait_for_ready(3)
    workshop.start_worker("--concurrency=1")
    assert workshop.wait_for_notes(3) == ["a", "b", "c"]


def test_tasks_handed_ahead_to_a_child_are_given_back_too(workshop: Workshop) -> None:
    """What a busy child holds but has not started is taken out of its hands."""
    worker = workshop.start_worker("--concurrency=1")
    learned_s = time.monotonic() + 0.5
    while time.monotonic() < learned_s:  # the worker, which looks every 0.1 s, learns that tasks are short, and asks for more
        workshop.jobs.add.delay(1, 2).get(timeout=20)
    running = workshop.jobs.hold.delay(str(workshop.folder), "running")
    for name in map(str, range(5)):
        workshop.jobs.note.delay(str(workshop.folder), name)
    workshop.wait_for_start("running")
    workshop.wait_for_ready(0)
    worker.send_signal(signal.SIGTERM)
    workshop.wait_for_ready(5)
    workshop.let_go("running")
    assert running.get(timeout=20) == 0


def test_what_runs_longer_than_the_timeout_goes_back_uncounted(make_workshop: MakeWorkshop) -> None:
    """At ``worker_shutdown_timeout`` the running task goes back to its queue, without a crash to its name."""
    workshop = make_workshop(worker_shutdown_timeout=0.3)
    workshop.start_worker("--concurrency=1")
    result = workshop.jobs.hold.delay(str(workshop.folder), "long")
    workshop.wait_for_start("long")
    assert workshop.stop_worker() == 0
    workshop.wait_for_ready(1)
    workshop.let_go("long")
    workshop.start_worker("--concurrency=1")
    assert result.get(timeout=20) == 0


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_a_cold_stop_gives_back_what_runs_at_once(workshop: Workshop, numbers: tuple[signal.Signals, ...]) -> None:
    """A second signal, or SIGQUIT, ends the worker within a second; the running task is in its queue, uncounted."""
    worker = workshop.start_worker("--concurrency=1")
    workshop.jobs.hold.delay(str(workshop.folder), "running")
    pid = workshop.wait_for_start("running")
    for number in numbers[:-1]:
        worker.send_signal(number)
        workshop.wait_for_log("waiting up to")
    began_s = time.monotonic()
    assert workshop.stop_worker(first_signal=numbers[-1]) == 0
    assert time.monotonic() - began_s < 1.0
    assert not is_alive(pid)
    workshop.wait_for_ready(1)


def test_a_signal_to_the_whole_group_is_the_supervisors_alone(workshop: Workshop) -> None:
    """Ctrl-C in a terminal, or a service manager's SIGTERM to every process, lets the running task finish all the same."""
    worker = workshop.start_worker("--concurrency=1")
    result = workshop.jobs.hold.delay(str(workshop.folder), "running")
    pid = workshop.wait_for_start("running")
    for each in (pid, worker.pid):
        os.kill(each, signal.SIGTERM)
    workshop.wait_for_log("waiting up to")
    workshop.let_go("running")
    assert result.get(timeout=20) == 0
    assert worker.wait(timeout=10) == 0


def test_a_worker_can_be_stopped_while_it_starts(workshop: Workshop) -> None:
    """A signal before the worker is ready ends it with exit code 0 and without leftovers."""
    worker = workshop.start_worker("--concurrency=2", wait=False)
    children = wait_until(workshop.children, 10.0, "the first child")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0, workshop.said()
    wait_until(lambda: not any(map(is_alive, children)), 5.0, "the children to end")
