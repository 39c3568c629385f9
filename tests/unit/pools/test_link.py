"""The child's end: jobs, answers and recall."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest

from leveret.pools.link import FLUSH_COUNT, Link
from leveret.pools.process import new_mark
from leveret.pools.wire import FrameReader, Job, frame


class Supervisor:
    """The other end of a link's data socket."""

    def __init__(self) -> None:
        self.socket, data = socket.socketpair()
        self.socket.settimeout(5.0)
        self.mark = new_mark()
        self.link = Link(data, self.mark)
        self._data = data
        self._reader = FrameReader()

    def hand(self, *numbers: int) -> None:
        """Send jobs of these numbers in one batch."""
        self.socket.sendall(frame(msgspec.msgpack.encode([Job(number, "q", False, b"", b"", b"") for number in numbers])))

    def batch(self) -> list[object]:
        """Receive one batch of answers."""
        while True:
            if payloads := self._reader.feed(self.socket.recv(65536)):
                (payload,) = payloads
                return msgspec.msgpack.decode(payload, type=list[object])

    def close(self) -> None:
        """Release everything."""
        self.socket.close()
        self._data.close()
        self.mark.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """Give a link and its other end."""
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


def number(job: Job | None) -> int:
    """Return the number of a job that must be there."""
    assert job is not None
    return job.number


def test_jobs_come_in_order_and_answers_leave_before_the_link_waits(supervisor: Supervisor) -> None:
    """A batch is run in its order; its answers are sent together before the child waits for more."""
    link = supervisor.link
    supervisor.hand(1, 2)
    for expected in (1, 2):
        assert number(link.next_job()) == expected
        link.answer(expected, "done")
    supervisor.socket.shutdown(socket.SHUT_WR)
    assert link.next_job() is None
    assert supervisor.batch() == [[1, "done"], [2, "done"]]


def test_answers_leave_when_there_are_many(supervisor: Supervisor) -> None:
    """A full batch of answers does not wait for the jobs to run out."""
    numbers = list(range(1, FLUSH_COUNT + 2))
    supervisor.hand(*numbers)
    for _ in numbers[:-1]:
        supervisor.link.answer(number(supervisor.link.next_job()), None)
    answered: list[object] = []
    while len(answered) < FLUSH_COUNT:
        answered += supervisor.batch()
    assert answered == [[n, None] for n in numbers[:-1]]


def test_recall_gives_back_what_was_not_started(supervisor: Supervisor) -> None:
    """Recall returns, oldest first, the jobs read but not started and those still in the socket; the running one stays."""
    link = supervisor.link
    supervisor.hand(1, 2, 3)
    assert number(link.next_job()) == 1
    supervisor.hand(4)
    assert link.recall() == [2, 3, 4]
    assert link.recall() == []
    supervisor.hand(5)
    assert number(link.next_job()) == 5


def test_recall_survives_half_a_frame(supervisor: Supervisor) -> None:
    """A job of which only a part has arrived is not lost by a recall: it is run, or recalled later."""
    link = supervisor.link
    supervisor.hand(1)
    assert number(link.next_job()) == 1
    whole = frame(msgspec.msgpack.encode([Job(2, "q", False, b"", b"", b"x" * 100)]))
    supervisor.socket.sendall(whole[:50])
    assert link.recall() == []
    supervisor.socket.sendall(whole[50:])
    assert link.recall() == [2]


def test_the_mark_is_cleared_when_the_link_waits(supervisor: Supervisor) -> None:
    """Between jobs the mark is 0, so that a death while idle is counted against no job."""
    link = supervisor.link
    supervisor.hand(1)
    assert number(link.next_job()) == 1
    supervisor.mark.write(1)
    supervisor.socket.shutdown(socket.SHUT_WR)
    assert link.next_job() is None
    assert supervisor.mark.read() == 0
