"""The word of memory in which a child notes which job it is on, so that a crash is counted against that job and no other.

Answers travel in batches, so when a child dies its last ones may be lost with it: the first unanswered job is not always
the one that killed it. A store into shared memory (0.1 µs) survives the child and is exact.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

__all__ = ["MARK_SIZE_BYTES", "Mark"]

_WORD: Final = struct.Struct("=Q")
MARK_SIZE_BYTES: Final = _WORD.size


class Mark:
    """The number of the job that runs, 0 between jobs; one process writes, another reads."""

    __slots__ = ("_memory", "fd")

    def __init__(self, fd: int) -> None:
        """Map the word behind ``fd``, which this object owns from now on."""
        self.fd = fd
        self._memory = mmap.mmap(fd, _WORD.size)

    def write(self, number: int) -> None:
        """Note that job ``number`` runs now."""
        _WORD.pack_into(self._memory, 0, number)

    def read(self) -> int:
        """Return the number of the job that runs, or ran when its process died."""
        (number,) = _WORD.unpack_from(self._memory, 0)
        return int(number)

    def close(self) -> None:
        """Unmap the word; safe to call twice."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self.fd)
