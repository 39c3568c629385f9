"""The order of a queue's ready messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.broker.core.backlog import Backlog, FifoBacklog, PriorityBacklog
from tests.support.core import entry


def drain(backlog: Backlog) -> list[int]:
    """Take everything and return the positions, checking head, length and iteration on the way."""
    positions = []
    while len(backlog):
        shown = [each.position for each in backlog]
        head = backlog.head()
        taken = backlog.pop()
        assert head is taken
        assert (len(shown), shown[0]) == (len(backlog) + 1, taken.position)
        positions.append(taken.position)
    assert backlog.head() is None
    return positions


def test_messages_leave_in_the_order_they_came() -> None:
    """First in, first out."""
    backlog = FifoBacklog()
    for position in range(1, 6):
        backlog.append(entry(position))
    assert drain(backlog) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]])
def test_returned_messages_find_their_original_position(order: list[int]) -> None:
    """In whatever order they come back, requeued messages stand where they stood (RabbitMQ, confirms)."""
    backlog = FifoBacklog()
    for position in range(1, 6):
        backlog.append(entry(position))
    taken = [backlog.pop() for _ in range(3)]
    for index in order:
        backlog.put_back(taken[index])
    backlog.append(entry(6))
    assert drain(backlog) == [1, 2, 3, 4, 5, 6]


def test_a_returned_message_may_be_taken_and_returned_again() -> None:
    """A message that is still out leaves its place free for when it comes back."""
    backlog = FifoBacklog()
    for position in range(1, 4):
        backlog.append(entry(position))
    first, second = backlog.pop(), backlog.pop()
    backlog.put_back(second)
    assert backlog.pop() is second
    backlog.put_back(first)
    backlog.put_back(second)
    assert drain(backlog) == [1, 2, 3]


def test_higher_priority_leaves_first() -> None:
    """The highest priority first, first in first out among equals (RabbitMQ, priority queues)."""
    backlog = PriorityBacklog(5)
    for position, priority in enumerate([0, 5, 3, 5, 0, 3], start=1):
        backlog.append(entry(position, priority=priority))
    assert drain(backlog) == [2, 4, 3, 6, 1, 5]


def test_priority_above_the_maximum_counts_as_the_maximum() -> None:
    """A queue of x-max-priority 3 sees no difference between 3 and 200 (RabbitMQ, priority queues)."""
    backlog = PriorityBacklog(3)
    for position, priority in enumerate([3, 200, 2], start=1):
        backlog.append(entry(position, priority=priority))
    assert drain(backlog) == [1, 2, 3]


def test_returned_message_goes_before_its_equals_only() -> None:
    """A requeued message of low priority does not overtake a higher one that came meanwhile."""
    backlog = PriorityBacklog(9)
    backlog.append(entry(1, priority=1))
    backlog.append(entry(2, priority=1))
    low = backlog.pop()
    backlog.append(entry(3, priority=9))
    backlog.put_back(low)
    assert drain(backlog) == [3, 1, 2]


@given(st.lists(st.one_of(st.integers(0, 6), st.just("pop"), st.integers(-5, -1)), max_size=60), st.sampled_from([0, 1, 4]))
def test_backlog_is_a_sorted_list(steps: list[int | str], priority_max: int) -> None:
    """Whatever comes, goes and comes back, the next message is the least by (-priority, position)."""
    backlog: Backlog = PriorityBacklog(priority_max) if priority_max else FifoBacklog()
    model: list[tuple[int, int]] = []
    taken = []
    for position, step in enumerate(steps, start=1):
        if step == "pop":
            if model:
                model.sort()
                taken.append(backlog.pop())
                assert taken[-1].position == model.pop(0)[1]
        elif isinstance(step, int) and step >= 0:
            backlog.append(entry(position, priority=step))
            model.append((-min(step, priority_max), position))
        elif taken:
            back = taken.pop(int(step) % len(taken))
            backlog.put_back(back)
            model.append((-min(back.message.priority, priority_max), back.position))
        assert len(backlog) == len(model)
        assert [each.position for each in backlog] == [position for _, position in sorted(model)]


def test_returning_many_messages_one_by_one_is_quick() -> None:
    """20,000 messages requeued one by one, oldest first, cost 20,000 short steps (a walk for each took 10 s)."""
    backlog = FifoBacklog()
    for position in range(20_000):
        backlog.append(entry(position))
    for each in [backlog.pop() for _ in range(20_000)]:
        backlog.put_back(each)
    assert drain_quickly(backlog) == list(range(20_000))


def drain_quickly(backlog: Backlog) -> list[int]:
    """Take everything and return the positions."""
    return [backlog.pop().position for _ in range(len(backlog))]
