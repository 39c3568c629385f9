"""Tasks through a real worker, on both brokers."""

from __future__ import annotations

import pytest

from leveret import NotRegistered, Queue
from tests.integration.conftest import MakeWorkshop
from tests.support.pika_client import open_connection
from tests.support.worker import Workshop


def test_tasks_return_their_results(workshop: Workshop) -> None:
    """Each result comes back to the call it belongs to."""
    workshop.start_worker("--concurrency=2")
    results = [workshop.jobs.add.delay(number, number) for number in range(50)]
    assert [result.get(timeout=20) for result in results] == [2 * number for number in range(50)]


def test_one_child_runs_tasks_in_the_order_of_their_arrival(workshop: Workshop) -> None:
    """With a concurrency of one, tasks run one after another as they were sent, whatever is prefetched and handed ahead."""
    names = [str(number) for number in range(200)]
    for name in names:
        workshop.jobs.note.apply_async((str(workshop.folder), name), ignore_result=True)
    workshop.start_worker("--concurrency=1")
    assert workshop.wait_for_notes(len(names)) == names


def test_higher_priorities_run_first_also_in_the_local_buffer(make_workshop: MakeWorkshop) -> None:
    """What was prefetched runs by priority, then by arrival."""
    workshop = make_workshop(task_queue_max_priority=10, worker_prefetch_multiplier=10)
    workshop.start_worker("--concurrency=1")
    held = workshop.jobs.hold.delay(str(workshop.folder), "first")
    workshop.wait_for_start("first")
    for name, priority in (("low1", 1), ("high1", 9), ("low2", 1), ("high2", 9), ("middle", 5)):
        workshop.jobs.note.apply_async((str(workshop.folder), name), priority=priority)
    workshop.wait_for_ready(0)
    workshop.let_go("first")
    assert held.get(timeout=20) == 0
    assert workshop.wait_for_notes(5) == ["high1", "high2", "middle", "low1", "low2"]


def test_a_retry_waits_in_the_broker_and_runs_again(workshop: Workshop) -> None:
    """A task that fails twice with two retries allowed succeeds at the third try; each retry is one line of the log."""
    workshop.start_worker("--concurrency=1")
    result = workshop.jobs.flaky.delay(2)
    assert result.get(timeout=20) == 2
    lines = [line for line in workshop.said().splitlines() if f"jobs.flaky[{result.id}]" in line]
    assert [f"retry {number} in" in line for number, line in enumerate(lines, 1)] == [True, True]
    assert all(" WARNING " in line for line in lines)


def test_a_task_without_retries_left_fails_with_its_own_exception(workshop: Workshop) -> None:
    """The caller gets the last exception, and the log one line with the task's name and id."""
    workshop.start_worker("--concurrency=1")
    result = workshop.jobs.flaky.delay(99)
    with pytest.raises(ValueError, match="try 2"):
        result.get(timeout=20)
    workshop.wait_for_log(f"ERROR leveret.worker task jobs.flaky[{result.id}] failed")


def test_an_unregistered_task_is_told_and_kept(workshop: Workshop) -> None:
    """A task this worker does not have is a stored NotRegistered, and its message waits in the parking queue."""
    app = workshop.jobs.app

    @app.task(name="jobs.of_tomorrow")
    def of_tomorrow() -> None:
        """Exist in the producer only."""

    workshop.start_worker("--concurrency=1")
    result = of_tomorrow.delay()
    with pytest.raises(NotRegistered, match=r"jobs\.of_tomorrow"):
        result.get(timeout=20)
    workshop.wait_for_ready(1, f"{workshop.queue}.parked")
    workshop.wait_for_ready(0)
    workshop.wait_for_log(f"kept in queue {workshop.queue}.parked")


def test_a_failed_task_goes_to_the_dead_letter_exchange_of_its_queue(workshop: Workshop) -> None:
    """Where the queue has a dead-letter exchange, the message of a failed task is there; the failure is stored all the same."""
    dead = f"{workshop.queue}.dead"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    with open_connection(workshop.url) as connection:
        channel = connection.channel()
        channel.queue_declare(dead, durable=True)
        channel.queue_declare(workshop.queue, durable=True, arguments=arguments)
    workshop.jobs.app.conf.task_queues = [Queue(workshop.queue, queue_arguments=arguments)]
    workshop.environment["JOBS_DEAD_LETTERS"] = dead
    workshop.start_worker("--concurrency=1")
    with pytest.raises(ValueError, match="try 2"):
        workshop.jobs.flaky.delay(99).get(timeout=20)
    workshop.wait_for_ready(1, dead)
