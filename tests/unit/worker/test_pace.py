"""How many tasks a child may hold, and how many messages a queue's consumers may."""

from __future__ import annotations

import pytest

from leveret.worker.pace import AHEAD_COUNT_MAX, LONG_S, Pace, ahead_count
from leveret.worker.prefetch import CONSUMERS_MAX, PREFETCH_COUNT_MAX, adaptive_counts, fixed_count


def pace_of(*runtimes_s: float, times: int = 1) -> Pace:
    """Return the pace after tasks of these run times, that many times over."""
    pace = Pace()
    for _ in range(times):
        for runtime_s in runtimes_s:
            pace.observe(runtime_s)
    return pace


def test_nothing_is_ahead_before_anything_is_known() -> None:
    """Until a task has been measured, a child has one task and a queue one message per slot."""
    assert ahead_count(Pace()) == 1
    assert adaptive_counts(8, Pace()) == [8]


@pytest.mark.parametrize(
    ("runtime_s", "count"),
    [(0.000_01, AHEAD_COUNT_MAX), (0.000_1, 21), (0.001, 3), (0.002, 2), (0.005, 1), (LONG_S, 1), (10.0, 1)],
)
def test_a_child_has_two_milliseconds_of_work_ahead(runtime_s: float, count: int) -> None:
    """The shorter the tasks, the more a child may hold; from 2 ms on nothing waits in it."""
    assert ahead_count(pace_of(runtime_s, times=50)) == count


def test_one_long_task_closes_the_window_for_a_while() -> None:
    """After a long task among short ones a child has one task again, until enough short ones have followed."""
    pace = pace_of(0.000_05, times=100)
    pace.observe(1.0)
    assert ahead_count(pace) == 1
    assert adaptive_counts(2, pace) == [2]
    for _ in range(200):
        pace.observe(0.000_05)
    assert ahead_count(pace) > 30


def test_a_task_that_still_runs_counts_already() -> None:
    """What is known of a running task is that it is at least so long."""
    pace = pace_of(0.000_05, times=100)
    pace.observe_running(0.03)
    assert ahead_count(pace) == 1


def test_long_tasks_keep_one_message_per_slot() -> None:
    """Tasks of a second leave nothing waiting in the worker."""
    assert adaptive_counts(16, pace_of(1.0, times=10)) == [16]


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 100, 900])
def test_short_tasks_add_consumers_within_the_limits(slots: int) -> None:
    """The counts of shorter tasks continue those of longer ones, and stay within the documented limits."""
    shorter: list[int] = []
    for runtime_s in (0.1, 0.03, 0.01, 0.003, 0.001, 0.000_3, 0.000_1, 0.000_01):
        counts = adaptive_counts(slots, pace_of(runtime_s, times=3000))
        assert counts[: len(shorter)] == shorter
        assert counts[0] == slots
        assert len(counts) <= CONSUMERS_MAX
        assert sum(counts) <= PREFETCH_COUNT_MAX
        shorter = counts
    if slots == 2:
        assert sum(shorter) == PREFETCH_COUNT_MAX


def test_a_few_short_tasks_prove_little() -> None:
    """The messages asked for grow with the number of tasks measured, however short these are."""
    totals = [sum(adaptive_counts(2, pace_of(0.000_02, times=times))) for times in (1, 3, 10, 100, 1000)]
    assert totals == [2, 2, 16, 128, PREFETCH_COUNT_MAX]


def test_the_multiplier_is_celerys() -> None:
    """``worker_prefetch_multiplier`` multiplies the concurrency; 0 is no limit; the wire takes 16 bits."""
    assert fixed_count(4, 8) == 32
    assert fixed_count(0, 8) == 0
    assert fixed_count(10_000, 64) == 65_535
