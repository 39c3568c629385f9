"""The local buffer's order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leveret.worker.buffer import LocalBuffer
from tests.unit.worker.attempts import attempt


def numbers(buffer: LocalBuffer) -> list[int]:
    """Empty a buffer."""
    return [each.number for each in buffer.take(len(buffer))]


def test_higher_priority_first_then_arrival() -> None:
    """Attempts leave by priority, and by arrival among equals."""
    buffer = LocalBuffer()
    for number, priority in [(1, 0), (2, 5), (3, 0), (4, 9), (5, 5)]:
        buffer.add(attempt(number, priority=priority))
    assert len(buffer) == 5
    assert numbers(buffer) == [4, 2, 5, 1, 3]
    assert len(buffer) == 0


def test_take_takes_no_more_than_asked() -> None:
    """A count limits what is taken, across priorities."""
    buffer = LocalBuffer()
    for number in range(1, 6):
        buffer.add(attempt(number, priority=number % 2))
    assert [each.number for each in buffer.take(4)] == [1, 3, 5, 2]
    assert numbers(buffer) == [4]


def test_what_comes_back_takes_its_old_place() -> None:
    """Attempts put back stand where their arrival puts them, before later ones and after earlier ones."""
    buffer = LocalBuffer()
    attempts = {number: attempt(number) for number in range(1, 8)}
    for number in (3, 6, 7):
        buffer.add(attempts[number])
    buffer.put_back([attempts[5], attempts[1]])
    buffer.put_back([attempts[4], attempts[2]])
    assert numbers(buffer) == [1, 2, 3, 4, 5, 6, 7]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.data())
def test_any_mixture_keeps_the_order(arrivals: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Whatever is taken and put back, the order is that of a sorted list."""
    buffer = LocalBuffer()
    for number, (priority, shuffle) in enumerate(arrivals):
        buffer.add(attempt(number, priority=priority))
        if shuffle:
            taken = buffer.take(data.draw(st.integers(0, len(buffer))))
            buffer.put_back(data.draw(st.permutations(taken)))
    expected = sorted(enumerate(arrivals), key=lambda arrival: (-arrival[1][0], arrival[0]))
    assert numbers(buffer) == [number for number, _ in expected]


def test_take_where_leaves_the_rest_in_order() -> None:
    """Taking by condition takes all that meet it and leaves the others in their order."""
    buffer = LocalBuffer()
    for number in range(1, 7):
        buffer.add(attempt(number, generation=number % 2))
    assert [each.number for each in buffer.take_where(lambda each: each.generation == 1)] == [1, 3, 5]
    assert numbers(buffer) == [2, 4, 6]
