"""What the storage gives back after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from leveret.broker.core.journal import BindingRecord, ExchangeRecord, Placement, QueueRecord
from leveret.broker.core.message import Message

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was durable; ``placements`` are ordered by queue and position."""

    vhosts: Sequence[str] = ()
    exchanges: Sequence[ExchangeRecord] = ()
    queues: Sequence[QueueRecord] = ()
    bindings: Sequence[BindingRecord] = ()
    messages: Sequence[Message] = field(default=(), repr=False)
    placements: Sequence[Placement] = field(default=(), repr=False)
    last_queue_id: int = 0
    quarantined: int = 0
    """Messages that are kept aside because they failed their check."""
