"""A queue: its ready messages, and the line of consumers that may take the next one.

::

            publish, dead-letter move, recovery              ack, expiry, purge
    (new) ───────────────────────────────────▶ ready ──────────────────────────▶ (gone)
                                               ▲   │ deliver, get                  ▲
                               nack, reject,   │   ▼                               │ ack; reject without requeue
                               connection lost └─ unacked ─────────────────────────┘
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from leveret.amqp.tables import Table
from leveret.broker.core.arguments import QueueArguments
from leveret.broker.core.backlog import Backlog, FifoBacklog, PriorityBacklog, WeighedBacklog
from leveret.broker.core.message import Entry, Message

if TYPE_CHECKING:
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.exchange import Binding
    from leveret.broker.core.session import Session
    from leveret.broker.core.vhost import VirtualHost

__all__ = ["Queue"]


class Queue:
    """One queue of a virtual host; who may do what to it is decided by the virtual host and the channels.

    ``durable``: its persistent messages are written to disk. An exclusive queue never is: it goes with its connection.
    """

    __slots__ = (
        "arguments",
        "auto_delete",
        "backlog",
        "consumers",
        "durable",
        "had_consumer",
        "id",
        "incoming",
        "instant_s",
        "is_deleted",
        "is_due",
        "is_limited",
        "last_used_s",
        "line",
        "name",
        "next_position",
        "owner",
        "scheduled_s",
        "settings",
        "unacked_count",
        "vhost",
    )

    def __init__(
        self,
        id_: int,
        name: str,
        vhost: VirtualHost,
        *,
        durable: bool,
        owner: Session | None,
        auto_delete: bool,
        arguments: Table,
        settings: QueueArguments,
        now_s: float,
    ) -> None:
        self.id = id_
        self.name = name
        self.vhost = vhost
        self.durable = durable
        self.owner = owner
        self.auto_delete = auto_delete
        self.arguments = arguments
        self.settings = settings
        self.backlog: Backlog = PriorityBacklog(settings.priority_max) if settings.priority_max else FifoBacklog()
        self.is_limited = settings.is_limited
        """Whether it can be full; asked at every publish."""
        if settings.length_bytes_max is not None:
            self.backlog = WeighedBacklog(self.backlog)
        self.consumers: dict[Consumer, None] = {}
        """Oldest first."""
        self.line: deque[Consumer] = deque()
        """The consumers that were not full when last looked at, the next one first: by priority, then in turns."""
        self.incoming: dict[Binding, None] = {}
        """The bindings that lead here."""
        self.next_position = 1
        self.unacked_count = 0
        self.had_consumer = False
        self.is_deleted = False
        self.is_due = False
        """Whether it stands in the broker's list of queues that may have something to deliver."""
        self.instant_s: float | None = None
        """When a message came that lives for this moment only: what cannot be delivered as of then has expired."""
        self.last_used_s = now_s
        self.scheduled_s: float | None = None
        """The earliest deadline that the broker's timer knows of."""

    @property
    def is_exclusive(self) -> bool:
        """Tell whether one connection owns it."""
        return self.owner is not None

    @property
    def is_consumed_exclusively(self) -> bool:
        """Tell whether its consumer has asked to be the only one."""
        return any(consumer.exclusive for consumer in islice(self.consumers, 1))

    def is_over_limit(self, message: Message | None = None) -> bool:
        """Tell whether more is ready than the queue may hold, or would be with this message."""
        settings, backlog = self.settings, self.backlog
        count, size_bytes = (0, 0) if message is None else (1, len(message.body))
        if settings.length_max is not None and len(backlog) + count > settings.length_max:
            return True
        limit = settings.length_bytes_max
        return limit is not None and isinstance(backlog, WeighedBacklog) and backlog.size_bytes + size_bytes > limit

    def new_entry(self, message: Message, now_s: float) -> Entry:
        """Give a message the last position, and the earlier of the queue's and its own expiry.

        The expiry is fixed when the message enters the queue (https://www.rabbitmq.com/docs/ttl).
        """
        position = self.next_position
        self.next_position = position + 1
        ttl_ms = self.settings.message_ttl_ms
        own_ms = message.expiration_ms
        if own_ms is not None and (ttl_ms is None or own_ms < ttl_ms):
            ttl_ms = own_ms
        return Entry(message, position, None if ttl_ms is None else now_s + ttl_ms / 1000)

    def add_consumer(self, consumer: Consumer) -> None:
        """Let a consumer take messages."""
        self.consumers[consumer] = None
        self.had_consumer = True
        self._stand_in_line(consumer)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Take a consumer away; what it holds unacknowledged stays with its channel."""
        del self.consumers[consumer]
        if consumer.in_line:
            self.line.remove(consumer)
            consumer.in_line = False

    def rejoin(self, consumer: Consumer) -> None:
        """Let a consumer that was full stand in line again."""
        if not consumer.in_line and not consumer.is_cancelled:
            self._stand_in_line(consumer)

    def _stand_in_line(self, consumer: Consumer) -> None:
        """Put a consumer behind all of its priority (https://www.rabbitmq.com/docs/consumer-priority)."""
        line = self.line
        if not line or line[-1].priority >= consumer.priority:
            line.append(consumer)
        else:
            line.insert(next(at for at, other in enumerate(line) if other.priority < consumer.priority), consumer)
        consumer.in_line = True

    def next_consumer(self) -> Consumer | None:
        """Return the consumer whose turn it is, dropping full ones from the line."""
        line = self.line
        while line:
            consumer = line[0]
            if not consumer.is_full:
                if line[-1].priority == consumer.priority:
                    line.rotate(-1)
                else:
                    line.popleft()
                    self._stand_in_line(consumer)
                return consumer
            line.popleft()
            consumer.in_line = False
        return None

    def deadline_s(self) -> float | None:
        """Return when something will expire here next: the head message, or the unused queue itself."""
        deadline = None
        head = self.backlog.head()
        if head is not None:
            deadline = head.expires_s
        expires_ms = self.settings.expires_ms
        if expires_ms is not None and not self.consumers:
            unused_s = self.last_used_s + expires_ms / 1000
            deadline = unused_s if deadline is None else min(deadline, unused_s)
        return deadline
