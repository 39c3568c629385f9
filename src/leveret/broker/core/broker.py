"""The broker: virtual hosts and sessions, what is due, and what waits for the disk.

The shell calls the sessions for what clients send, then ``run_due`` once per loop turn; it takes the journal's batch
and the sessions' outboxes, says ``committed`` when a batch is on disk, and calls ``tick`` when a deadline has come.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

from leveret.broker.core.arguments import Overflow, QueueArguments
from leveret.broker.core.channel import Channel
from leveret.broker.core.exchange import EXCHANGE_TYPES, Binding, Exchange
from leveret.broker.core.journal import Batch, BindingRecord, ExchangeRecord, Journal, VhostRecord
from leveret.broker.core.message import Entry, Message
from leveret.broker.core.queue import Queue
from leveret.broker.core.session import Session
from leveret.broker.core.snapshot import Snapshot
from leveret.broker.core.vhost import VirtualHost
from leveret.errors import NotAllowed, StorageCorrupt

__all__ = ["Broker"]

DEADLINES_MIN: Final = 1000
"""Deadlines that may stand in the heap before those that hold no more are thrown out."""


class Broker:
    """All state of a broker. ``new_name_suffix`` makes the unguessable part of server-made names."""

    def __init__(self, new_name_suffix: Callable[[], str]) -> None:
        self.new_name_suffix = new_name_suffix
        self.vhosts: dict[str, VirtualHost] = {}
        self.sessions: dict[Session, None] = {}
        self.journal = Journal()
        self.committed = 0
        """The last batch that is on disk."""
        self.confirms_due: list[Channel] = []
        self.output_due: list[Session] = []
        self._queues_due: deque[Queue] = deque()
        self._awaiting_commit: dict[Channel, None] = {}
        self._deadlines: list[tuple[float, int, Queue]] = []
        """A heap; those that no longer hold for their queue are passed over."""
        self._deadlines_max = DEADLINES_MIN
        self._tie = count()
        self._next_message_id = count(1).__next__
        self._next_queue_id = count(1).__next__

    # ------------------------------------------------------------------------------------------- recovery

    def restore(self, snapshot: Snapshot, now_s: float) -> None:
        """Rebuild what was durable. Called once, before any session.

        Raises:
            StorageCorrupt: The records do not fit together.
        """
        for name in snapshot.vhosts:
            self.vhosts[name] = VirtualHost(name, self)
        for exchange in snapshot.exchanges:
            self._restore_exchange(exchange)
        queues: dict[int, Queue] = {}
        for record in snapshot.queues:
            vhost = self._known_vhost(record.vhost)
            settings = QueueArguments.parse(record.arguments, queue=record.name, vhost=record.vhost)
            queue = Queue(
                record.id,
                record.name,
                vhost,
                durable=True,
                owner=None,
                auto_delete=record.auto_delete,
                arguments=record.arguments,
                settings=settings,
                now_s=now_s,
            )
            vhost.queues[record.name] = queue
            queues[record.id] = queue
        for binding in snapshot.bindings:
            self._restore_binding(binding)
        messages: dict[int, Message] = {}
        for stored in snapshot.messages:
            messages[stored.id] = stored
        for queue_id, position, message_id, expires_ms, redelivered in snapshot.placements:
            placed_in, message = queues.get(queue_id), messages.get(message_id)
            if placed_in is None or message is None:
                raise StorageCorrupt(f"placement {position} of queue {queue_id} names message {message_id}, which is not stored")
            expires_s = None if expires_ms is None else expires_ms / 1000
            # Batch 0 means "not on disk"; what was recovered belongs to a batch that is long past.
            placed_in.backlog.append(Entry(message, position, expires_s, -1, redelivered))
            placed_in.next_position = position + 1
            message.durable_refs += 1
        self.journal.release([message.id for message in messages.values() if not message.durable_refs])
        self._next_message_id = count(max(messages, default=0) + 1).__next__
        self._next_queue_id = count(snapshot.last_queue_id + 1).__next__
        for queue in queues.values():
            self.watch(queue)

    def redelivered(self) -> list[tuple[int, int]]:
        """List (queue id, position) of the stored messages that have been delivered before, for the next start."""
        return [
            (queue.id, entry.position)
            for vhost in self.vhosts.values()
            for queue in vhost.queues.values()
            if queue.durable
            for entry in queue.backlog
            if entry.redelivered and entry.batch
        ]

    def _known_vhost(self, name: str) -> VirtualHost:
        vhost = self.vhosts.get(name)
        if vhost is None:
            raise StorageCorrupt(f"the stored topology names virtual host {name!r}, which is not stored")
        return vhost

    def _restore_exchange(self, record: ExchangeRecord) -> None:
        type_ = EXCHANGE_TYPES.get(record.type)
        if type_ is None:
            raise StorageCorrupt(f"exchange {record.name!r} is stored with the unknown type {record.type!r}")
        self._known_vhost(record.vhost).exchanges[record.name] = type_(
            record.name, durable=True, auto_delete=record.auto_delete, internal=record.internal, arguments=record.arguments
        )

    def _restore_binding(self, record: BindingRecord) -> None:
        vhost = self._known_vhost(record.vhost)
        source = vhost.exchanges.get(record.source)
        destination: Queue | Exchange | None
        destination = vhost.exchanges.get(record.destination) if record.to_exchange else vhost.queues.get(record.destination)
        if source is None or destination is None:
            raise StorageCorrupt(f"a binding is stored from {record.source!r} to {record.destination!r}, which is not")
        binding = Binding(source, destination, record.routing_key, record.arguments)
        source.add(binding)
        destination.incoming[binding] = None

    # ------------------------------------------------------------------------------------------- commands

    def add_vhost(self, name: str) -> VirtualHost:
        """Return a virtual host, creating it where there is none."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VirtualHost(name, self)
            self.journal.topology.append(VhostRecord(name))
        return vhost

    def connect(self, vhost_name: str, user: str, *, takes_cancel: bool) -> Session:
        """Make the session of a client that has logged in.

        Raises:
            NotAllowed: No such virtual host.
        """
        vhost = self.vhosts.get(vhost_name)
        if vhost is None:
            raise NotAllowed(f"vhost {vhost_name} not found", class_id=10, method_id=40)
        session = Session(self, vhost, user, takes_cancel=takes_cancel)
        self.sessions[session] = None
        return session

    def run_due(self, now_s: float) -> None:
        """Deliver what can be delivered, and confirm what need not wait; called once per turn of the shell's loop."""
        self.deliver_due(now_s)
        while self.confirms_due:
            self.confirms_due.pop().confirm(self.committed)

    def deliver_due(self, now_s: float) -> None:
        """Hand the ready messages of all queues that are due to their consumers."""
        while self._queues_due:
            queue = self._queues_due.popleft()
            queue.is_due = False
            if not queue.is_deleted:
                self.deliver(queue, now_s)

    def deliver(self, queue: Queue, now_s: float) -> None:
        """Hand a queue's ready messages to its consumers; what then expires or is too many leaves it."""
        if queue.instant_s is not None:
            # A time to live of 0: to a consumer now, or never (https://www.rabbitmq.com/docs/ttl).
            now_s, queue.instant_s = queue.instant_s, None
        backlog = queue.backlog
        while len(backlog):
            consumer = queue.next_consumer()
            if consumer is None:
                break
            entry = backlog.pop()
            if entry.expires_s is not None and entry.expires_s < now_s:
                queue.vhost.dead_letter(queue, entry, "expired", now_s)
                continue
            consumer.channel.deliver(consumer, queue, entry)
        head = backlog.head()
        if head is not None and head.expires_s is not None:
            queue.vhost.expire_heads(queue, now_s)
            self.watch(queue)
        if queue.is_limited and queue.settings.overflow is Overflow.DROP_HEAD:
            queue.vhost.drop_overflow(queue, now_s)

    def committed_through(self, batch_id: int) -> None:
        """All batches up to this one are on disk: send the confirms that waited for them."""
        self.committed = batch_id
        for channel in list(self._awaiting_commit):
            if not channel.release_confirms(batch_id):
                del self._awaiting_commit[channel]

    def tick(self, now_s: float) -> float | None:
        """Expire what is due at or before now_s; return the next deadline (None: nothing is waiting)."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_s:
            scheduled_s, _, queue = heapq.heappop(deadlines)
            if queue.is_deleted or queue.scheduled_s != scheduled_s:
                continue
            queue.scheduled_s = None
            expires_ms = queue.settings.expires_ms
            if expires_ms is not None and not queue.consumers and queue.last_used_s + expires_ms / 1000 <= now_s:
                queue.vhost.delete_queue(queue)
                continue
            queue.vhost.expire_heads(queue, now_s)
            self.watch(queue)
        return deadlines[0][0] if deadlines else None

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` has something to do; None: nothing is waiting."""
        return self._deadlines[0][0] if self._deadlines else None

    def take_batch(self) -> Batch:
        """Close the open journal batch and return it."""
        return self.journal.take()

    # ---------------------------------------------------------------------------- for the rooms of the core

    def new_message_id(self) -> int:
        """Return an id that no stored message has."""
        return self._next_message_id()

    def new_queue_id(self) -> int:
        """Return an id that no queue has had."""
        return self._next_queue_id()

    def mark_due(self, queue: Queue) -> None:
        """Look at this queue when this turn's work is done: it may have something to deliver."""
        if not queue.is_due:
            queue.is_due = True
            self._queues_due.append(queue)

    def await_commit(self, channel: Channel) -> None:
        """Look at this channel's confirms when a batch becomes durable."""
        self._awaiting_commit[channel] = None

    def watch(self, queue: Queue) -> None:
        """Make sure that the timer comes by when something expires in this queue."""
        deadline_s = queue.deadline_s()
        if deadline_s is None or (queue.scheduled_s is not None and queue.scheduled_s <= deadline_s):
            return
        queue.scheduled_s = deadline_s
        heapq.heappush(self._deadlines, (deadline_s, next(self._tie), queue))
        if len(self._deadlines) > self._deadlines_max:
            # Queues that were made for a day and deleted after a second would stay for the day.
            self._deadlines[:] = [each for each in self._deadlines if not each[2].is_deleted and each[2].scheduled_s == each[0]]
            heapq.heapify(self._deadlines)
            self._deadlines_max = max(DEADLINES_MIN, 2 * len(self._deadlines))

    def forget_session(self, session: Session) -> None:
        """Drop a session that has ended."""
        self.sessions.pop(session, None)
        for channel in [channel for channel in self._awaiting_commit if channel.session is session]:
            del self._awaiting_commit[channel]
