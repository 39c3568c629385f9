"""What a batch holds, and what need not be written at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leveret.broker.core.journal import Journal, VhostRecord
from tests.support.core import entry


def test_batches_are_numbered_from_one() -> None:
    """Each taking closes a batch and opens the next."""
    journal = Journal()
    assert [journal.take().id for _ in range(3)] == [1, 2, 3]
    assert journal.batch_id == 4


def test_an_empty_journal_says_so() -> None:
    """Nothing recorded is nothing to write."""
    journal = Journal()
    assert journal.is_empty
    assert journal.take().is_empty


@pytest.mark.parametrize(
    "record",
    [
        lambda journal: journal.topology.append(VhostRecord("/")),
        lambda journal: journal.place(1, entry(1)),
        lambda journal: journal.release([3]),
    ],
)
def test_every_kind_of_record_counts(record: Callable[[Journal], None]) -> None:
    """What was recorded is in the next batch, and only there."""
    journal = Journal()
    record(journal)
    assert not journal.is_empty
    assert not journal.take().is_empty
    assert journal.take().is_empty


def test_a_message_in_two_queues_is_written_once() -> None:
    """One message, as many placements as it has queues, all in one batch."""
    journal = Journal()
    first = entry(7)
    second = type(first)(first.message, 9, 1_800_000_000.5)
    journal.place(1, first)
    journal.place(2, second)
    batch = journal.take()
    assert batch.messages == [first.message]
    assert batch.placements == [(1, 7, 7, None, False), (2, 9, 7, 1_800_000_000_500, False)]
    assert batch.size_bytes == first.message.size_bytes
    assert first.message.durable_refs == 2


def test_what_comes_and_goes_inside_a_batch_is_not_written() -> None:
    """A message that is acknowledged before its batch is taken costs the disk nothing."""
    journal = Journal()
    gone, stays = entry(1), entry(2)
    journal.place(1, gone)
    journal.place(1, stays)
    journal.remove(1, gone)
    batch = journal.take()
    assert batch.messages == [stays.message]
    assert [placement[1] for placement in batch.placements] == [2]
    assert (batch.removed, batch.released) == ([], [])


def test_a_message_half_gone_inside_its_batch_is_written_with_the_other_half() -> None:
    """Of two placements in one batch, the one that is gone is left out; the message is still written."""
    journal = Journal()
    first = entry(1)
    second = type(first)(first.message, 1, None)
    journal.place(1, first)
    journal.place(2, second)
    journal.remove(1, first)
    batch = journal.take()
    assert batch.messages == [first.message]
    assert [placement[0] for placement in batch.placements] == [2]


def test_the_last_placement_releases_the_message() -> None:
    """A stored message is deleted with its last placement, not before."""
    journal = Journal()
    first = entry(1)
    second = type(first)(first.message, 1, None)
    journal.place(1, first)
    journal.place(2, second)
    journal.take()
    journal.remove(1, first)
    batch = journal.take()
    assert (batch.removed, batch.released) == ([(1, 1)], [])
    journal.remove(2, second)
    batch = journal.take()
    assert (batch.removed, batch.released) == ([(2, 1)], [first.message.id])


def test_placements_that_go_with_their_queue_are_not_removed_one_by_one() -> None:
    """Deleting a queue deletes its placements; only messages that lie nowhere else are released."""
    journal = Journal()
    alone, shared = entry(1), entry(2)
    elsewhere = type(shared)(shared.message, 5, None)
    journal.place(1, alone)
    journal.place(1, shared)
    journal.place(2, elsewhere)
    journal.take()
    journal.remove(1, alone, with_queue=True)
    journal.remove(1, shared, with_queue=True)
    batch = journal.take()
    assert (batch.removed, batch.released) == ([], [alone.message.id])


def test_a_dead_letter_move_is_one_batch() -> None:
    """Leaving one queue and coming to lie in another are never apart on disk."""
    journal = Journal()
    old = entry(1)
    journal.place(1, old)
    journal.take()
    moved = entry(2)
    journal.remove(1, old)
    journal.place(2, moved)
    batch = journal.take()
    assert (batch.removed, [placement[0] for placement in batch.placements]) == ([(1, 1)], [2])
