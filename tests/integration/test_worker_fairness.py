"""No task waits behind a running one while another child is free."""

from __future__ import annotations

from tests.support.worker import Workshop


def test_short_tasks_do_not_wait_behind_a_long_one(workshop: Workshop) -> None:
    """Tasks that were handed to the child of a long task are taken back and run on the other child."""
    workshop.start_worker("--concurrency=2")
    for number in range(100):  # the worker learns that tasks are short, and hands out several at a time
        workshop.jobs.add.delay(number, number).get(timeout=20)
    long = workshop.jobs.hold.delay(str(workshop.folder), "long")
    names = [str(number) for number in range(100)]
    for name in names:
        workshop.jobs.note.apply_async((str(workshop.folder), name), ignore_result=True)
    workshop.wait_for_start("long")
    assert sorted(workshop.wait_for_notes(len(names))) == sorted(names)
    assert not long.ready()
    workshop.let_go("long")
    assert long.get(timeout=20) == 0
