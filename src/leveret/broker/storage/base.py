"""What the broker asks of a storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from leveret.broker.core.journal import Batch
from leveret.broker.core.snapshot import Snapshot

__all__ = ["Storage"]


class Storage(Protocol):
    """A durable place for batches; used by one thread at a time."""

    def load(self) -> Snapshot:
        """Return what was durable when the storage was last used.

        Raises:
            StorageCorrupt: It cannot be read back as it was written.
        """
        ...

    def write(self, batches: Sequence[Batch]) -> None:
        """Apply the batches in order, in one transaction; they are durable when this returns.

        Raises:
            StorageError: Nothing more may be written: what the disk holds now is not known.
        """
        ...

    def idle(self) -> None:
        """Use a quiet moment for housekeeping."""
        ...

    def close(self, redelivered: Sequence[tuple[int, int]] | None) -> None:
        """Close it; safe to call twice.

        ``redelivered``: the (queue id, position) of every message that has been delivered, which makes this a clean
        stop; None after a failure.
        """
        ...
