"""A storage that forgets, for brokers that live as long as their process."""

from __future__ import annotations

from collections.abc import Sequence

from leveret.broker.core.journal import Batch
from leveret.broker.core.snapshot import Snapshot

__all__ = ["MemoryStorage"]


class MemoryStorage:
    """Takes every batch at once and keeps nothing."""

    def load(self) -> Snapshot:
        """Return an empty snapshot."""
        return Snapshot()

    def write(self, batches: Sequence[Batch]) -> None:
        """Forget the batches."""

    def idle(self) -> None:
        """Do nothing."""

    def close(self, redelivered: Sequence[tuple[int, int]] | None) -> None:
        """Do nothing."""
