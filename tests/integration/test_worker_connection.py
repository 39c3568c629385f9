"""Connections that break, and brokers that go and come back."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from leveret.broker import local
from tests.integration.conftest import MakeWorkshop
from tests.support.brokers import Broker
from tests.support.pika_client import open_connection
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from tests.support.worker import Workshop


def test_work_goes_on_after_the_broker_was_restarted(workshop: Workshop, broker: Broker) -> None:
    """A broker restart in the middle of the work costs nothing: every task runs, and the log says what happened, once."""
    workshop.start_worker("--concurrency=2")
    names = [str(number) for number in range(60)]
    for name in names[:30]:
        workshop.jobs.note.apply_async((str(workshop.folder), name), ignore_result=True)
    workshop.wait_for_notes(1)
    broker.server.restart()
    for name in names[30:]:
        workshop.jobs.note.apply_async((str(workshop.folder), name), ignore_result=True)
    wait_until(lambda: set(workshop.notes()) == set(names), 30.0, "every task to have run")
    workshop.wait_for_log("reconnected to")
    said = workshop.said()
    assert len(re.findall("connection to .* lost", said)) == 1
    assert ":guest@" not in said


def test_a_task_that_runs_through_an_outage_is_done(workshop: Workshop, broker: Broker) -> None:
    """A task goes on while its connection is lost; its delivery is void, and the message is settled once it comes again."""
    workshop.start_worker("--concurrency=1")
    workshop.jobs.hold.apply_async((str(workshop.folder), "through"), ignore_result=True)
    workshop.wait_for_start("through")
    broker.server.restart()
    workshop.wait_for_log("reconnected to")
    workshop.let_go("through")
    workshop.wait_for_ready(0)
    assert workshop.jobs.add.delay(1, 2).get(timeout=20) == 3
    assert workshop.stop_worker() == 0
    workshop.wait_for_ready(0)


def test_a_deleted_queue_is_made_again(workshop: Workshop, broker: Broker) -> None:
    """When its queue is deleted, the worker declares and consumes it again."""
    workshop.start_worker("--concurrency=1")
    delete_queue(workshop)
    workshop.wait_for_log("reconnected to")
    assert workshop.jobs.add.delay(1, 2).get(timeout=20) == 3


def delete_queue(workshop: Workshop) -> None:
    """Delete the workshop's queue, as an operator might."""
    with open_connection(workshop.url) as connection:
        connection.channel().queue_delete(workshop.queue)


def test_a_worker_without_a_broker_says_which_one_and_ends(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    """At its start an unreachable broker is one message, with the URL but not the password, and exit code 1."""
    workshop = Workshop(tmp_path, f"amqp://user:secret@127.0.0.1:{free_port()}/", "nowhere")
    worker = workshop.start_worker("--concurrency=1", wait=False)
    assert worker.wait(timeout=10) == 1
    (line,) = [line for line in workshop.said().splitlines() if line.startswith("error: ")]
    assert "127.0.0.1" in line
    assert "refused" in line.lower()
    assert "secret" not in workshop.said()
    assert "Traceback" not in workshop.said()


def test_a_queue_with_other_arguments_is_told_and_left_alone(make_workshop: MakeWorkshop) -> None:
    """A queue that exists with other arguments ends the worker's start with a message that names it; it is never deleted."""
    first = make_workshop()
    first.start_worker("--concurrency=1")
    first.stop_worker()
    second = Workshop(first.folder, first.url, first.queue, {"task_queue_max_priority": 5})
    worker = second.start_worker("--concurrency=1", wait=False)
    assert worker.wait(timeout=10) == 1
    (line,) = [line for line in second.said().splitlines() if line.startswith("error: ")]
    assert first.queue in line
    assert "x-max-priority" in line
    second.close()


def test_a_worker_can_be_stopped_while_its_broker_is_away(workshop: Workshop, broker: Broker) -> None:
    """A worker that looks for its broker ends at SIGTERM as any other, the task it runs included."""
    workshop.start_worker("--concurrency=1")
    workshop.jobs.hold.apply_async((str(workshop.folder), "running"), ignore_result=True)
    workshop.wait_for_start("running")
    broker.server.stop()
    workshop.wait_for_log("lost")
    workshop.let_go("running")
    assert workshop.stop_worker() == 0
    broker.server.start()
    workshop.wait_for_ready(1)


def test_the_local_broker_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no broker configured, a worker whose local broker has died starts it again, and loses nothing."""
    workshop = Workshop(tmp_path, "local://", "local")
    monkeypatch.setenv("LEVERET_HOME", workshop.environment["LEVERET_HOME"])
    try:
        workshop.start_worker("--concurrency=1")
        assert workshop.jobs.add.delay(1, 2).get(timeout=20) == 3
        found = local.find()
        assert found is not None
        os.kill(found.pid, signal.SIGKILL)
        workshop.wait_for_log("reconnected to")
        assert workshop.jobs.add.delay(2, 2).get(timeout=20) == 4
    finally:
        workshop.close()
        local.stop()
