"""A channel: publishing, settling deliveries, publisher confirms. The hot half of the broker.

Methods that are not on the hot path are in ``topology_methods`` and ``basic_methods``.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from leveret.amqp.events import MULTIPLE_BIT, NACK_BIT, REJECT_BIT, REQUEUE_BIT
from leveret.amqp.methods import basic
from leveret.amqp.properties import decode_header, delivery_facts
from leveret.amqp.tables import decode_shortstr
from leveret.broker.core.arguments import TTL_MS_MAX
from leveret.broker.core.copies import MARK, without_bcc
from leveret.broker.core.effects import CONFIRM, DELIVER, SEND
from leveret.broker.core.message import Entry, Message
from leveret.errors import NotImplementedByBroker, PreconditionFailed, ReplyError

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.session import Session
    from leveret.broker.core.vhost import VirtualHost

__all__ = ["Channel", "Unacked"]

MANDATORY: Final = 1
IMMEDIATE: Final = 2
USER_ID_FLAG: Final = 0x10
"""The bit of ``user-id`` in the low octet of a content header's property flags."""
DELIVERY_OVERHEAD_BYTES: Final = 64

_NUMBER: Final = re.compile(r"[+-]?[0-9]+")

Unacked: TypeAlias = "tuple[Queue, Entry, Consumer | None]"
"""A delivery that waits for its acknowledgement; no consumer when it was fetched with basic.get."""


class Channel:
    """One open channel of a session."""

    __slots__ = (
        "broker",
        "confirmed",
        "confirming",
        "consumer_unacked_count",
        "consumers",
        "first_outstanding",
        "is_confirm_due",
        "last_queue_name",
        "nacks",
        "next_delivery_tag",
        "number",
        "pending_confirms",
        "prefetch_count",
        "prefetch_shared",
        "published",
        "session",
        "stored_batch",
        "unacked",
        "vhost",
    )

    def __init__(self, number: int, session: Session, vhost: VirtualHost, broker: Broker) -> None:
        self.number = number
        self.session = session
        self.vhost = vhost
        self.broker = broker
        self.consumers: dict[str, Consumer] = {}
        self.unacked: dict[int, Unacked] = {}
        """By delivery tag, and so in the order of delivery."""
        self.next_delivery_tag = 1
        self.first_outstanding = 1
        """No delivery with a lower tag waits for its acknowledgement."""
        self.prefetch_count = 0
        """basic.qos(global=false): the limit of each consumer made from now on."""
        self.prefetch_shared = 0
        """basic.qos(global=true): the limit shared by all consumers of the channel."""
        self.consumer_unacked_count = 0
        self.last_queue_name = ""
        self.confirming = False
        self.published = 0
        """Messages since confirm.select: the last publish's sequence number."""
        self.confirmed = 0
        self.stored_batch = 0
        """The last journal batch that holds something of this channel's."""
        self.pending_confirms: deque[tuple[int, int]] = deque()
        """(batch, last sequence number), oldest first: confirmed in order, when the batch is durable."""
        self.is_confirm_due = False
        self.nacks: deque[int] = deque()
        """Sequence numbers of publishes that a full queue refused and that are not answered yet."""

    # ------------------------------------------------------------------------------------------ publishing

    def publish(self, route: bytes, bits: int, header: bytes, body: bytes, now_s: float) -> None:
        """Route one message into its queues.

        Raises:
            NotFound: No such exchange.
            AccessRefused: The exchange is internal.
            PreconditionFailed: A property that RabbitMQ refuses as well: expiration, user-id, CC, BCC.
            NotImplementedByBroker: ``immediate``.
        """
        vhost = self.vhost
        queues = vhost.routes.get(route)
        try:
            if queues is None:
                queues = vhost.resolve(route, header)
            if bits & IMMEDIATE:
                raise NotImplementedByBroker("immediate=true")
            delivery_mode, priority, expiration = delivery_facts(header)
            if header[13] & USER_ID_FLAG:
                self._check_user_id(header)
            expiration_ms = None if expiration is None else parse_expiration(expiration)
            if MARK in header:
                queues = vhost.with_copies(route, header, queues)
                header = without_bcc(header)
        except ReplyError as error:
            error.class_id, error.method_id = basic.Publish.INDEX
            raise
        if self.confirming:
            self.published += 1
            if not self.is_confirm_due:
                self.is_confirm_due = True
                self.broker.confirms_due.append(self)
        if not queues:
            if bits & MANDATORY:
                self._return(route, header, body)
            return
        message = Message(self.broker.new_message_id(), route, header, body, delivery_mode == 2, priority, expiration_ms)
        for queue in queues:
            if (
                not vhost.place(queue, message, now_s)
                and self.confirming
                and (not self.nacks or self.nacks[-1] != self.published)
            ):
                self.nacks.append(self.published)
        if message.durable_refs:
            self.stored_batch = self.broker.journal.batch_id

    def _return(self, route: bytes, header: bytes, body: bytes) -> None:
        exchange, offset = decode_shortstr(route, 0)
        routing_key, _ = decode_shortstr(route, offset)
        returned = basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange=exchange, routing_key=routing_key)
        self.session.emit((SEND, self.number, returned, header, body))

    def _check_user_id(self, header: bytes) -> None:
        _, properties = decode_header(header)
        if properties.user_id is not None and properties.user_id != self.session.user:
            raise PreconditionFailed(
                f"user_id property set to '{properties.user_id}' but authenticated user was '{self.session.user}'"
            )

    # ----------------------------------------------------------------------------------------- confirms

    def confirm(self, committed: int) -> None:
        """Confirm all that was published so far, now if it is durable (or need not be), else with its batch.

        Confirms stay in order: a transient message behind a stored one waits with it, at most one commit long, and
        so one `multiple` answers for a whole batch.
        """
        self.is_confirm_due = False
        if self.published == self.confirmed:
            return
        waits_for = self.stored_batch
        if waits_for <= committed and not self.pending_confirms:
            self._emit_confirm(self.published)
        else:
            if self.pending_confirms:
                waits_for = max(waits_for, self.pending_confirms[-1][0])
            self.pending_confirms.append((waits_for, self.published))
            self.broker.await_commit(self)

    def release_confirms(self, committed: int) -> bool:
        """Confirm what has become durable; return whether more is waiting."""
        pending = self.pending_confirms
        last = 0
        while pending and pending[0][0] <= committed:
            last = pending.popleft()[1]
        if last > self.confirmed:
            self._emit_confirm(last)
        return bool(pending)

    def _emit_confirm(self, sequence: int) -> None:
        """Answer for every publish up to this one: basic.nack for those that a full queue refused, basic.ack for the others."""
        while self.nacks and self.nacks[0] <= sequence:
            refused = self.nacks.popleft()
            if refused - 1 > self.confirmed:
                self._emit_ack(refused - 1)
            self.confirmed = refused
            self.session.emit((SEND, self.number, basic.Nack(delivery_tag=refused), None, b""))
        if sequence > self.confirmed:
            self._emit_ack(sequence)

    def _emit_ack(self, sequence: int) -> None:
        multiple = sequence - self.confirmed > 1
        self.confirmed = sequence
        self.session.emit((CONFIRM, self.number, sequence, multiple))

    # --------------------------------------------------------------------------------- deliveries and their end

    def deliver(self, consumer: Consumer, queue: Queue, entry: Entry) -> None:
        """Send a message to a consumer of this channel."""
        tag = self.next_delivery_tag
        self.next_delivery_tag = tag + 1
        message = entry.message
        if consumer.no_ack:
            if entry.batch:
                self.broker.journal.remove(queue.id, entry)
        else:
            self.unacked[tag] = (queue, entry, consumer)
            consumer.unacked_count += 1
            self.consumer_unacked_count += 1
            queue.unacked_count += 1
        session = self.session
        session.outbox.append((DELIVER, self.number, consumer.tag_field, tag, entry.redelivered, message))
        session.note_output(len(message.body) + len(message.header) + DELIVERY_OVERHEAD_BYTES)

    def settle(self, delivery_tag: int, kind: int, now_s: float) -> None:
        """Obey basic.ack, basic.nack or basic.reject.

        Raises:
            PreconditionFailed: ``unknown delivery tag``: never delivered on this channel, or settled before.
        """
        if kind & MULTIPLE_BIT:
            tags = self._tags_up_to(delivery_tag, kind)
        else:
            if delivery_tag not in self.unacked:
                raise self._unknown(delivery_tag, kind)
            tags = [delivery_tag]
        unacked = self.unacked
        if not kind & NACK_BIT:
            remove = self.broker.journal.remove
            for tag in tags:
                queue, entry, consumer = unacked.pop(tag)
                self._free(queue, consumer)
                if entry.batch and not queue.is_deleted:
                    remove(queue.id, entry)
            return
        for tag in tags:
            queue, entry, consumer = unacked.pop(tag)
            self._free(queue, consumer)
            if queue.is_deleted:
                continue
            if kind & REQUEUE_BIT:
                self.vhost.requeue(queue, entry)
            else:
                self.vhost.dead_letter(queue, entry, "rejected", now_s)

    def _tags_up_to(self, delivery_tag: int, kind: int) -> list[int]:
        """Return the outstanding tags up to and with this one, all of which the caller settles; 0 means all.

        (AMQP 0-9-1, basic.ack.) Each tag is looked at once in the life of the channel: walking the dict instead would
        step over all that was settled before, every time.
        """
        if delivery_tag and delivery_tag not in self.unacked:
            raise self._unknown(delivery_tag, kind)
        first, end = self.first_outstanding, delivery_tag + 1 if delivery_tag else self.next_delivery_tag
        self.first_outstanding = end
        return [tag for tag in range(first, end) if tag in self.unacked]

    @staticmethod
    def _unknown(delivery_tag: int, kind: int) -> PreconditionFailed:
        method = basic.Reject if kind & REJECT_BIT else basic.Nack if kind & NACK_BIT else basic.Ack
        class_id, method_id = method.INDEX
        return PreconditionFailed(f"unknown delivery tag {delivery_tag}", class_id=class_id, method_id=method_id)

    def _free(self, queue: Queue, consumer: Consumer | None) -> None:
        """Count one delivery less, and let consumers that were full stand in line again."""
        queue.unacked_count -= 1
        if consumer is None:
            return
        consumer.unacked_count -= 1
        self.consumer_unacked_count -= 1
        if self.prefetch_shared:
            for other in self.consumers.values():
                self._rejoin(other)
        elif not consumer.in_line:
            self._rejoin(consumer)

    def _rejoin(self, consumer: Consumer) -> None:
        queue = consumer.queue
        queue.rejoin(consumer)
        if len(queue.backlog):
            self.broker.mark_due(queue)

    def requeue_all(self, now_s: float) -> None:
        """Put everything unacknowledged back to its original place, marked redelivered."""
        self.settle(0, MULTIPLE_BIT | NACK_BIT | REQUEUE_BIT, now_s)

    def close(self, now_s: float) -> None:
        """Requeue what the consumers hold, then cancel them; confirms that are still open are lost with the channel."""
        self.requeue_all(now_s)
        for consumer in list(self.consumers.values()):
            self.vhost.remove_consumer(consumer, now_s)
        self.pending_confirms.clear()
        self.nacks.clear()
        self.confirmed = self.published


def parse_expiration(text: str) -> int:
    """Return the milliseconds of a message's ``expiration`` property.

    Raises:
        PreconditionFailed: Not digits, negative or above RabbitMQ's limit; the text is RabbitMQ's.
    """
    number = _NUMBER.match(text)
    if number is None:
        why = "no_integer"
    elif rest := text[number.end() :]:
        why = f'{{leftover_string,"{rest}"}}'
    else:
        value = int(number[0])
        if 0 <= value <= TTL_MS_MAX:
            return value
        why = f"{{{'value_negative' if value < 0 else 'value_too_large'},{value}}}"
    raise PreconditionFailed(f"invalid expiration '{text}': {why}")
