"""The ready messages of one queue, in delivery order: by position, or by priority and then position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from leveret.broker.core.message import Entry

__all__ = ["Backlog", "FifoBacklog", "PriorityBacklog"]


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
    """First in, first out."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self.append = self._entries.append  # the hot path: no second call per publish
        self.pop = self._entries.popleft

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        return self._entries[0] if self._entries else None

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position.

        What comes back was taken from the head, so that its place is found after as many steps as there are
        messages in front of it that came back before: few.
        """
        entries = self._entries
        overtaken: list[Entry] = []
        while entries and entries[0].position < entry.position:
            overtaken.append(entries.popleft())
        entries.appendleft(entry)
        entries.extendleft(reversed(overtaken))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)


class PriorityBacklog:
    """The highest priority first, first in first out inside one priority (``x-max-priority``).

    A missing priority counts as 0, one above the queue's maximum as the maximum
    (https://www.rabbitmq.com/docs/priority).
    """

    def __init__(self, priority_max: int) -> None:
        self._lines = [FifoBacklog() for _ in range(priority_max + 1)]
        self._count = 0

    def _line(self, entry: Entry) -> FifoBacklog:
        return self._lines[min(entry.message.priority, len(self._lines) - 1)]

    def append(self, entry: Entry) -> None:
        """Add a new message behind all of its priority."""
        self._count += 1
        self._line(entry).append(entry)

    def head(self) -> Entry | None:
        """Return the next message to deliver, without taking it."""
        for line in reversed(self._lines):
            if len(line):
                return line.head()
        return None

    def pop(self) -> Entry:
        """Take the next message to deliver; the backlog is not empty."""
        for line in reversed(self._lines):
            if len(line):
                self._count -= 1
                return line.pop()
        raise IndexError("pop from an empty backlog")

    def put_back(self, entry: Entry) -> None:
        """Return a message to its original position among those of its priority."""
        self._count += 1
        self._line(entry).put_back(entry)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for line in reversed(self._lines):
            yield from line
