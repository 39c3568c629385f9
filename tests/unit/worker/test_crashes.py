"""Crashes, counted in the message."""

from __future__ import annotations

import pytest

from leveret.pools.process import Exit
from leveret.results.meta import decode_meta
from leveret.tasks.decoding import decode
from leveret.tasks.message import TaskMessage, encode
from leveret.tasks.outcomes import Lost
from leveret.tasks.states import State
from leveret.worker.crashes import crash_of, lost_task


def test_each_crash_is_one_more_in_the_header() -> None:
    """The count travels with the message; everything else stays as it was."""
    header, body = encode(TaskMessage("id-1", "t", args=[1], retries=2, priority=7, reply_to="replies"))
    for expected in (1, 2, 3):
        crash = crash_of(header, limit=9)
        assert crash.crashes == expected
        header = crash.header
    message = decode(header, body)
    assert (message.crashes, message.retries, message.priority, message.reply_to) == (3, 2, 7, "replies")


def test_a_header_nobody_can_read_has_reached_the_limit() -> None:
    """What cannot be counted in cannot be run again and again."""
    assert crash_of(b"nonsense", limit=3).crashes == 3


@pytest.mark.parametrize(
    ("exit_", "words"), [(Exit(1, -9), "died of signal 9 (SIGKILL)"), (Exit(1, 7), "left with exit code 7"), (Exit(1, -62), "62")]
)
def test_a_lost_task_is_a_failure_that_says_how_its_process_ended(exit_: Exit, words: str) -> None:
    """Whoever waits for the result gets a WorkerLost with the signal or exit code and the count."""
    header, body = encode(TaskMessage("id-1", "t", reply_to="replies"))
    executed = lost_task(header, body, exit_, crashes=3, now_s=0.0)
    assert isinstance(executed.outcome, Lost)
    assert (executed.task_id, executed.task_name, executed.reply_to, executed.correlation_id) == ("id-1", "t", "replies", "id-1")
    assert executed.meta is not None
    meta = decode_meta(executed.meta)
    assert meta.state is State.FAILURE
    assert words in str(meta.result)
    assert "crash 3" in str(meta.result)


def test_a_lost_task_whose_result_is_ignored_stores_none() -> None:
    """Nobody waits for it; a message that is none has nobody either."""
    header, body = encode(TaskMessage("id-1", "t", ignore_result=True))
    assert lost_task(header, body, Exit(1, -9), crashes=3, now_s=0.0).meta is None
    assert lost_task(b"nonsense", b"", Exit(1, -9), crashes=3, now_s=0.0).meta is None
