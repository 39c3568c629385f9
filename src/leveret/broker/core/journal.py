"""What must become durable, gathered between two hand-overs to the storage.

The core writes into the open batch; the shell takes it once per loop turn and hands it to the storage, which makes
whole batches durable in order, several in one transaction. So a publish to many queues, or a dead-letter move, is
never half on disk, and a confirm needs to remember no more than a batch number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from leveret.amqp.tables import Table
from leveret.broker.core.message import Entry, Message

__all__ = [
    "Batch",
    "BindingRecord",
    "ExchangeRecord",
    "Journal",
    "Placement",
    "QueueRecord",
    "RemoveBinding",
    "RemoveExchange",
    "RemoveQueue",
    "TopologyChange",
    "VhostRecord",
]


@dataclass(frozen=True, slots=True)
class VhostRecord:
    """A virtual host exists."""

    name: str


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """A durable exchange exists."""

    vhost: str
    name: str
    type: str
    auto_delete: bool
    internal: bool
    arguments: Table


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A durable queue exists; ``id`` is never used for another queue."""

    id: int
    vhost: str
    name: str
    auto_delete: bool
    arguments: Table


@dataclass(frozen=True, slots=True)
class BindingRecord:
    """A binding between two durable things exists; ``to_exchange`` tells what the destination is."""

    vhost: str
    source: str
    destination: str
    to_exchange: bool
    routing_key: str
    arguments: Table


@dataclass(frozen=True, slots=True)
class RemoveExchange:
    """A durable exchange is gone."""

    vhost: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveQueue:
    """A durable queue is gone, with all its placements."""

    id: int


@dataclass(frozen=True, slots=True)
class RemoveBinding:
    """A durable binding is gone."""

    binding: BindingRecord


TopologyChange: TypeAlias = (
    VhostRecord | ExchangeRecord | QueueRecord | BindingRecord | RemoveExchange | RemoveQueue | RemoveBinding
)

Placement: TypeAlias = tuple[int, int, int, int | None, bool]
"""(queue id, position, message id, expiry in ms since 1970 or None, redelivered)"""


@dataclass(slots=True)
class Batch:
    """One durable step: apply ``topology`` in order, then the messages, the placements, the removals."""

    id: int
    topology: Sequence[TopologyChange] = ()
    messages: Sequence[Message] = ()
    placements: Sequence[Placement] = ()
    removed: Sequence[tuple[int, int]] = ()
    released: Sequence[int] = ()
    size_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to write."""
        return not (self.topology or self.placements or self.removed or self.released)


@dataclass(slots=True)
class Journal:
    """The open batch; ``batch_id`` counts from 1 and is what confirms wait for."""

    batch_id: int = 1
    topology: list[TopologyChange] = field(default_factory=list)
    _messages: list[Message] = field(default_factory=list)
    _placed: list[tuple[int, Entry]] = field(default_factory=list)
    _removed: list[tuple[int, int]] = field(default_factory=list)
    _released: list[int] = field(default_factory=list)

    @property
    def last_batch_id(self) -> int:
        """The last batch that holds anything: the open one, or the one before while nothing is recorded."""
        return self.batch_id - self.is_empty

    def place(self, queue_id: int, entry: Entry) -> None:
        """Record that a persistent message has come to lie in a durable queue."""
        message = entry.message
        entry.batch = self.batch_id
        if not message.durable_refs:
            self._messages.append(message)
        message.durable_refs += 1
        self._placed.append((queue_id, entry))

    def remove(self, queue_id: int, entry: Entry, *, with_queue: bool = False) -> None:
        """Record that a stored message has left a queue; what was placed in this same batch is not written at all.

        ``with_queue``: the queue itself goes, its placements go with it.
        """
        message = entry.message
        message.durable_refs -= 1
        entry.removed = True
        if entry.batch != self.batch_id:
            if not with_queue:
                self._removed.append((queue_id, entry.position))
            if not message.durable_refs:
                self._released.append(message.id)

    def release(self, message_ids: Sequence[int]) -> None:
        """Record that stored messages lie in no queue."""
        self._released.extend(message_ids)

    def take(self) -> Batch:
        """Close the open batch and open the next one."""
        placements: list[Placement] = [
            (
                queue_id,
                entry.position,
                entry.message.id,
                None if entry.expires_s is None else int(entry.expires_s * 1000),
                entry.redelivered,
            )
            for queue_id, entry in self._placed
            if not entry.removed
        ]
        messages = [message for message in self._messages if message.durable_refs]
        batch = Batch(
            id=self.batch_id,
            topology=self.topology,
            messages=messages,
            placements=placements,
            removed=self._removed,
            released=self._released,
            size_bytes=sum(message.size_bytes for message in messages),
        )
        self.batch_id += 1
        self.topology = []
        self._messages, self._placed, self._removed, self._released = [], [], [], []
        return batch

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing was recorded since the last ``take``."""
        return not (self.topology or self._placed or self._removed or self._released)
