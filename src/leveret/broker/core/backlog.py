"""The ready messages of one queue, in delivery order: by position, or by priority and then position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Protocol

from leveret.broker.core.message import Entry

__all__ = ["Backlog", "FifoBacklog", "PriorityBacklog", "WeighedBacklog"]


class Backlog(Protocol):
    """What a queue asks of its ready messages."""

    def append(self, entry: Entry) -> None:
        """Add a new message at its place behind all that are ready."""
        ...

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        ...

    def pop(self) -> Entry:
        """Take the next message to deliver; the backlog is not empty."""
        ...

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...


class FifoBacklog:
    """First in, first out.

    What comes back was taken from the head, so that it lies before everything that is still in line: it waits in a heap
    of its own, which is looked at first. A thousand messages returned in any order cost a thousand short steps.
    """

    __slots__ = ("_in_line", "_returned", "append")

    def __init__(self) -> None:
        self._in_line: deque[Entry] = deque()
        self._returned: list[tuple[int, Entry]] = []
        self.append = self._in_line.append  # the hot path: no second call per publish

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        if self._returned:
            return self._returned[0][1]
        return self._in_line[0] if self._in_line else None

    def pop(self) -> Entry:
        """Take the next message to deliver; the backlog is not empty."""
        if self._returned:
            return heappop(self._returned)[1]
        return self._in_line.popleft()

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position."""
        heappush(self._returned, (entry.position, entry))

    def __len__(self) -> int:
        return len(self._in_line) + len(self._returned)

    def __iter__(self) -> Iterator[Entry]:
        for _, entry in sorted(self._returned):
            yield entry
        yield from self._in_line


class PriorityBacklog:
    """The highest priority first, first in first out inside one priority (``x-max-priority``).

    A missing priority counts as 0, one above the queue's maximum as the maximum
    (https://www.rabbitmq.com/docs/priority).
    """

    __slots__ = ("_count", "_lines", "_occupied")

    def __init__(self, priority_max: int) -> None:
        self._lines = [FifoBacklog() for _ in range(priority_max + 1)]
        self._occupied = 0
        """A bit for each line that has messages: the highest one is found in one step."""
        self._count = 0

    def _join(self, entry: Entry) -> FifoBacklog:
        """Return the line that an entry is about to join."""
        priority = min(entry.message.priority, len(self._lines) - 1)
        self._occupied |= 1 << priority
        self._count += 1
        return self._lines[priority]

    def append(self, entry: Entry) -> None:
        """Add a new message behind all of its priority."""
        self._join(entry).append(entry)

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        return self._lines[self._occupied.bit_length() - 1].head() if self._count else None

    def pop(self) -> Entry:
        """Take the next message to deliver; the backlog is not empty."""
        priority = self._occupied.bit_length() - 1
        line = self._lines[priority]
        entry = line.pop()
        self._count -= 1
        if not len(line):
            self._occupied ^= 1 << priority
        return entry

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position among those of its priority."""
        self._join(entry).put_back(entry)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for line in reversed(self._lines):
            yield from line


class WeighedBacklog:
    """Any backlog, with the bytes of the bodies in it: for queues that limit them (``x-max-length-bytes``)."""

    __slots__ = ("_backlog", "size_bytes")

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.size_bytes = 0

    def append(self, entry: Entry) -> None:
        """Add a new message at its place behind all that are ready."""
        self.size_bytes += len(entry.message.body)
        self._backlog.append(entry)

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        return self._backlog.head()

    def pop(self) -> Entry:
        """Take the next message to deliver; the backlog is not empty."""
        entry = self._backlog.pop()
        self.size_bytes -= len(entry.message.body)
        return entry

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position."""
        self.size_bytes += len(entry.message.body)
        self._backlog.put_back(entry)

    def __len__(self) -> int:
        return len(self._backlog)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._backlog)
