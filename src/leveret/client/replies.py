"""Replies that came before anybody asked for them, within bounds: the oldest go first."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

__all__ = ["REPLIES_BYTES_MAX", "REPLIES_MAX", "Replies"]

REPLIES_MAX: Final = 10_000
REPLIES_BYTES_MAX: Final = 64 << 20


class Replies:
    """Reply bodies by correlation id, for several threads; those of one id keep their order, and each is given out once."""

    __slots__ = ("_bodies", "_bytes_max", "_count", "_count_max", "_lock", "_size_bytes")

    def __init__(self, *, count_max: int = REPLIES_MAX, bytes_max: int = REPLIES_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bodies: dict[str, deque[bytes]] = {}
        self._count = 0
        self._size_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def add(self, correlation_id: str, body: bytes) -> None:
        """Keep a reply, at the cost of the oldest where there are too many or too large ones."""
        with self._lock:
            self._bodies.setdefault(correlation_id, deque()).append(body)
            self._count += 1
            self._size_bytes += len(body)
            while self._count > 1 and (self._count > self._count_max or self._size_bytes > self._bytes_max):
                self._take(next(iter(self._bodies)))

    def take(self, correlation_id: str) -> bytes | None:
        """Return the first reply to an id and drop it; None when there is none."""
        with self._lock:
            return self._take(correlation_id)

    def forget(self, correlation_id: str) -> None:
        """Drop every reply to an id."""
        with self._lock:
            while self._take(correlation_id) is not None:
                pass

    def _take(self, correlation_id: str) -> bytes | None:
        bodies = self._bodies.get(correlation_id)
        if bodies is None:
            return None
        body = bodies.popleft()
        if not bodies:
            del self._bodies[correlation_id]
        self._count -= 1
        self._size_bytes -= len(body)
        return body
