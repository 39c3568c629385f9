"""The attempts that wait for a child, by priority and then by arrival. PURE.

The broker keeps both orders, but what it has delivered is out of its hands: without this buffer's order, a message of high
priority would wait behind those that were prefetched before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from leveret.worker.attempt import Attempt

__all__ = ["LocalBuffer"]


class LocalBuffer:
    """A queue per priority; higher numbers go first (AMQP 0-9-1, 1.8.3.9). Its size is bounded by the prefetch counts."""

    __slots__ = ("_lanes", "_priorities", "_size")

    def __init__(self) -> None:
        self._lanes: dict[int, deque[Attempt]] = {}
        self._priorities: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, attempt: Attempt) -> None:
        """Add the newest attempt."""
        lane = self._lanes.get(attempt.priority)
        if lane is None:
            lane = self._open_lane(attempt.priority)
        lane.append(attempt)
        self._size += 1

    def put_back(self, attempts: Iterable[Attempt]) -> None:
        """Add attempts that were here before, at the places their arrival gives them."""
        for attempt in sorted(attempts, key=_by_arrival, reverse=True):
            lane = self._lanes.get(attempt.priority)
            if lane is None:
                lane = self._open_lane(attempt.priority)
            lane.appendleft(attempt)
            if len(lane) > 1 and lane[1].number < attempt.number:
                self._lanes[attempt.priority] = deque(sorted(lane, key=_by_arrival))
            self._size += 1

    def take(self, count: int) -> list[Attempt]:
        """Take out at most so many, those that are to run first, in that order."""
        taken: list[Attempt] = []
        for priority in self._priorities:
            lane = self._lanes[priority]
            while lane and len(taken) < count:
                taken.append(lane.popleft())
            if len(taken) == count:
                break
        self._size -= len(taken)
        return taken

    def take_where(self, condition: Callable[[Attempt], bool]) -> list[Attempt]:
        """Take out all that meet the condition, in the order they would have run."""
        everything = self.take(self._size)
        self.put_back(attempt for attempt in everything if not condition(attempt))
        return [attempt for attempt in everything if condition(attempt)]

    def _open_lane(self, priority: int) -> deque[Attempt]:
        # At most 256 priorities exist, so lanes are kept when they run empty.
        lane = self._lanes[priority] = deque()
        self._priorities = sorted(self._lanes, reverse=True)
        return lane


def _by_arrival(attempt: Attempt) -> int:
    return attempt.number
