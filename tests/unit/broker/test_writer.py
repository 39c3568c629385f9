"""The thread that writes: group commit, in order, and an end at the first failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

import pytest

from leveret.broker.core.journal import Batch
from leveret.broker.core.snapshot import Snapshot
from leveret.broker.storage import writer as writer_module
from leveret.broker.storage.writer import BATCHES_MAX, Writer
from leveret.errors import LeveretError, StorageError

TIMEOUT_S = 10


class Disk:
    """A storage whose commits begin and end when the test says so."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[list[int]] = SimpleQueue()
        self.outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        self.idled = threading.Event()
        self.idle_error: Exception | None = None
        self.writes = 0

    def load(self) -> Snapshot:
        """Nothing is asked for here."""
        return Snapshot()

    def write(self, batches: Sequence[Batch]) -> None:
        """Say what is being written, and wait for how it ends."""
        self.writes += 1
        self.begun.put([batch.id for batch in batches])
        error = self.outcomes.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error

    def idle(self) -> None:
        """Take note."""
        self.idled.set()
        if self.idle_error is not None:
            raise self.idle_error

    def close(self, redelivered: Sequence[tuple[int, int]] | None) -> None:
        """Nothing is asked for here."""


class World:
    """A running writer with its disk, and what it has said."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.committed: SimpleQueue[int] = SimpleQueue()
        self.failed: SimpleQueue[LeveretError] = SimpleQueue()
        self.writer = Writer(self.disk, on_committed=self.committed.put, on_failed=self.failed.put)

    def submit(self, *ids: int) -> None:
        """Hand batches over."""
        for id_ in ids:
            self.writer.submit(Batch(id_))

    def begun(self) -> list[int]:
        """Wait for the next transaction; return its batches."""
        return self.disk.begun.get(timeout=TIMEOUT_S)

    def end(self, error: Exception | None = None) -> None:
        """Let the transaction end."""
        self.disk.outcomes.put(error)


@pytest.fixture
def world() -> Iterator[World]:
    """A running writer."""
    made = World()
    made.writer.start()
    yield made
    for _ in range(10):
        made.end()
    made.writer.stop()


def test_what_gathers_during_a_commit_goes_into_the_next_one(world: World) -> None:
    """One transaction for all that arrived while the last one was syncing, in order; then it is said to be durable."""
    world.submit(1)
    assert world.begun() == [1]
    world.submit(2, 3, 4)
    assert world.committed.empty()
    world.end()
    assert world.committed.get(timeout=TIMEOUT_S) == 1
    assert world.begun() == [2, 3, 4]
    world.submit(5)
    world.end()
    assert world.committed.get(timeout=TIMEOUT_S) == 4
    assert world.begun() == [5]
    world.end()
    assert world.committed.get(timeout=TIMEOUT_S) == 5


def test_a_transaction_has_a_limit(world: World) -> None:
    """However many batches wait, one transaction takes so many and no more."""
    world.submit(1)
    world.begun()
    world.submit(*range(2, BATCHES_MAX + 3))
    world.end()
    assert world.begun() == list(range(2, BATCHES_MAX + 2))
    world.end()
    assert world.begun() == [BATCHES_MAX + 2]
    world.end()


@pytest.mark.parametrize("error", [StorageError("cannot write: no space"), ValueError("a bug")])
def test_the_first_failure_is_the_end(world: World, error: Exception) -> None:
    """After a failed write nothing more is written or said to be durable, whatever is handed over (fsync is not retried)."""
    world.submit(1)
    world.begun()
    world.submit(2)
    world.end(error)
    found = world.failed.get(timeout=TIMEOUT_S)
    assert isinstance(found, StorageError)
    assert str(error) in str(found)
    world.submit(3)
    world.writer.stop()
    assert world.disk.writes == 1
    assert world.committed.empty()


def test_stop_writes_what_was_handed_over(world: World) -> None:
    """Stopping waits for the disk; a second stop does nothing."""
    world.submit(1, 2)
    for _ in range(2):
        world.end()
    world.writer.stop()
    written = []
    while not world.disk.begun.empty():
        written += world.disk.begun.get()
    assert written == [1, 2]
    world.writer.stop()


def test_quiet_moments_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing has come for a while after a write, the storage may tidy up; a failure there is one as well."""
    monkeypatch.setattr(writer_module, "IDLE_S", 0.01)
    world = World()
    world.writer.start()
    world.submit(1)
    world.begun()
    world.disk.idle_error = StorageError("cannot checkpoint")
    world.end()
    assert world.disk.idled.wait(TIMEOUT_S)
    assert str(world.failed.get(timeout=TIMEOUT_S)) == "cannot checkpoint"
    world.writer.stop()


def test_a_writer_that_never_started_can_be_stopped() -> None:
    """Stop is safe before start."""
    World().writer.stop()
