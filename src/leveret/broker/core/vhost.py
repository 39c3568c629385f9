"""A virtual host: its exchanges, queues and bindings, and the way of a message between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from leveret.amqp.properties import decode_header
from leveret.amqp.tables import Table, decode_shortstr, encode_shortstr
from leveret.broker.core.arguments import (
    Overflow,
    QueueArguments,
    check_equivalent_argument,
    check_equivalent_property,
    invalid_exchange_type,
    known_queue_arguments,
)
from leveret.broker.core.copies import MARK, added_routing_keys
from leveret.broker.core.dead_letter import dead_lettered_header, died_in
from leveret.broker.core.exchange import (
    EXCHANGE_TYPES,
    Binding,
    DirectExchange,
    Exchange,
    FanoutExchange,
    HeadersExchange,
    TopicExchange,
)
from leveret.broker.core.journal import BindingRecord, ExchangeRecord, QueueRecord, RemoveBinding, RemoveExchange, RemoveQueue
from leveret.broker.core.message import Entry, Message
from leveret.broker.core.queue import Queue
from leveret.errors import AccessRefused, NotFound, PreconditionFailed, ResourceLocked

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.session import Session

__all__ = ["VirtualHost"]

ROUTES_MAX: Final = 20_000
"""Remembered routes of one virtual host; beyond it all are forgotten and found anew."""

PREDECLARED: Final[tuple[tuple[str, type[Exchange]], ...]] = (
    ("amq.direct", DirectExchange),
    ("amq.fanout", FanoutExchange),
    ("amq.topic", TopicExchange),
    ("amq.headers", HeadersExchange),
    ("amq.match", HeadersExchange),
)


class VirtualHost:
    """One virtual host; durable changes go to the broker's journal as they are made."""

    def __init__(self, name: str, broker: Broker) -> None:
        self.name = name
        self.broker = broker
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {
            exchange_name: type_(exchange_name, durable=True, auto_delete=False, internal=False, arguments={})
            for exchange_name, type_ in PREDECLARED
        }
        self.routes: dict[bytes, tuple[Queue, ...]] = {}
        """Where each route led when it was last resolved; emptied when the topology changes."""

    # -------------------------------------------------------------------------------------------- routing

    def resolve(self, route: bytes, header: bytes) -> tuple[Queue, ...]:
        """Find the queues of a route as it stands in basic.publish, and remember them unless the headers decide.

        Raises:
            NotFound: No such exchange.
            AccessRefused: The exchange is internal.
        """
        exchange_name, offset = decode_shortstr(route, 0)
        routing_key, _ = decode_shortstr(route, offset)
        if exchange_name and self.exchange(exchange_name).internal:
            raise AccessRefused(f"cannot publish to internal exchange '{exchange_name}' in vhost '{self.name}'")
        queues, is_always_so = self.destinations(exchange_name, routing_key, header)
        if is_always_so:
            if len(self.routes) >= ROUTES_MAX:
                self.routes.clear()
            self.routes[route] = queues
        return queues

    def with_copies(self, route: bytes, header: bytes, queues: tuple[Queue, ...]) -> tuple[Queue, ...]:
        """Return the queues of a route together with those that its CC and BCC headers add, each once.

        Raises:
            PreconditionFailed: CC or BCC is not an array of routing keys.
        """
        exchange_name, _ = decode_shortstr(route, 0)
        found = dict.fromkeys(queues)
        for key in added_routing_keys(decode_header(header)[1].headers or {}):
            found |= dict.fromkeys(self.destinations(exchange_name, key, header)[0])
        return tuple(found)

    def destinations(self, exchange_name: str, routing_key: str, header: bytes) -> tuple[tuple[Queue, ...], bool]:
        """Return the queues a message goes to, each once, and whether all messages of this routing key go there.

        It goes on through exchange-to-exchange bindings and alternate exchanges.
        """
        if not exchange_name:
            queue = self.queues.get(routing_key)
            return () if queue is None else (queue,), True
        found: dict[Queue, None] = {}
        seen: set[Exchange] = set()
        headers: Table | None = None
        waiting = [self.exchanges[exchange_name]]
        while waiting:
            exchange = waiting.pop()
            if exchange in seen:
                continue
            seen.add(exchange)
            if exchange.LOOKS_AT_HEADERS and headers is None:
                headers = decode_header(header)[1].headers or {}
            is_routed = False
            for destination in exchange.destinations(routing_key, headers or {}):
                is_routed = True
                if isinstance(destination, Queue):
                    found[destination] = None
                else:
                    waiting.append(destination)
            # An alternate exchange takes what its exchange routes nowhere (https://www.rabbitmq.com/docs/ae).
            if not is_routed and exchange.alternate is not None and exchange.alternate in self.exchanges:
                waiting.append(self.exchanges[exchange.alternate])
        return tuple(found), headers is None

    def place(self, queue: Queue, message: Message, now_s: float) -> bool:
        """Put a message at the end of a queue; return False where the queue is full and refuses it."""
        if queue.is_limited and not self._makes_room(queue, message, now_s):
            return False
        entry = queue.new_entry(message, now_s)
        if message.persistent and queue.durable:
            self.broker.journal.place(queue.id, entry)
        queue.backlog.append(entry)
        if queue.line and not queue.is_due:
            self.broker.mark_due(queue)
        if entry.expires_s is not None:
            if entry.expires_s <= now_s:
                queue.instant_s = now_s
                self.broker.mark_due(queue)
            self.broker.watch(queue)
        return True

    def _makes_room(self, queue: Queue, message: Message, now_s: float) -> bool:
        """See to it that a queue of limited length is not over its limit when this message has come.

        What consumers have room for is not counted, so they are served first
        (https://www.rabbitmq.com/docs/maxlength).
        """
        self.broker.mark_due(queue)
        overflow = queue.settings.overflow
        if overflow is Overflow.DROP_HEAD or not queue.is_over_limit(message):
            return True
        self.broker.deliver(queue, now_s)
        if not queue.is_over_limit(message):
            return True
        if overflow is Overflow.REJECT_PUBLISH_DLX:
            self.dead_letter(queue, Entry(message, 0, None), "maxlen", now_s)
        return False

    def drop_overflow(self, queue: Queue, now_s: float) -> None:
        """Dead-letter the messages at the head that are too many."""
        while len(queue.backlog) and queue.is_over_limit():
            self.dead_letter(queue, queue.backlog.pop(), "maxlen", now_s)

    def requeue(self, queue: Queue, entry: Entry) -> None:
        """Put a delivered message back to its original position, marked redelivered."""
        entry.redelivered = True
        queue.backlog.put_back(entry)
        if queue.line:
            self.broker.mark_due(queue)
        if entry.expires_s is not None:
            self.broker.watch(queue)

    def discard(self, queue: Queue, entry: Entry) -> None:
        """Forget a message's place in a queue, on disk too."""
        if entry.batch:
            self.broker.journal.remove(queue.id, entry)

    def expire_heads(self, queue: Queue, now_s: float) -> None:
        """Dead-letter the messages at the head whose time has come; others expire when they get there."""
        backlog = queue.backlog
        while (head := backlog.head()) is not None and head.expires_s is not None and head.expires_s <= now_s:
            self.dead_letter(queue, backlog.pop(), "expired", now_s)

    def dead_letter(self, queue: Queue, entry: Entry, reason: str, now_s: float) -> None:
        """Move a message to its queue's dead-letter exchange, or drop it where there is none; one journal batch.

        A missing exchange drops it too, and so does a cycle without a rejection in it
        (https://www.rabbitmq.com/docs/dlx).
        """
        settings = queue.settings
        exchange_name = settings.dead_letter_exchange
        if exchange_name is None or (exchange_name and exchange_name not in self.exchanges):
            self.discard(queue, entry)
            return
        message = entry.message
        old_exchange, offset = decode_shortstr(message.route, 0)
        old_key, _ = decode_shortstr(message.route, offset)
        new_key = settings.dead_letter_routing_key
        routing_key = old_key if new_key is None else new_key
        header, deaths = dead_lettered_header(
            message.header,
            queue=queue.name,
            reason=reason,
            exchange=old_exchange,
            routing_key=old_key,
            keeps_cc=new_key is None,
            now_s=now_s,
        )
        route = encode_shortstr(exchange_name, "exchange") + encode_shortstr(routing_key, "routing-key")
        queues, _ = self.destinations(exchange_name, routing_key, header)
        if MARK in header:
            queues = self.with_copies(route, header, queues)
        targets = [target for target in queues if not died_in(target.name, deaths)]
        self.discard(queue, entry)
        if not targets:
            return
        moved = Message(
            self.broker.new_message_id(),
            route,
            header,
            message.body,
            message.persistent,
            message.priority,
            None,
        )
        for target in targets:
            self.place(target, moved, now_s)

    # ------------------------------------------------------------------------------------------ exchanges

    def exchange(self, name: str) -> Exchange:
        """Return an exchange by name.

        Raises:
            NotFound: There is none; the default exchange is not one that can be looked up.
        """
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise NotFound(f"no exchange '{name}' in vhost '{self.name}'")
        return exchange

    def declare_exchange(
        self, name: str, type_name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table
    ) -> bool:
        """Create an exchange, or check that the one that exists is the same; return whether it is durable.

        Raises:
            AccessRefused: A reserved name.
            PreconditionFailed: An unknown type, or it exists with other properties.
        """
        type_ = EXCHANGE_TYPES.get(type_name)
        if type_ is None:
            raise PreconditionFailed(f"{'unknown' if type_name else 'invalid'} exchange type '{type_name}'")
        current = self.exchanges.get(name)
        if current is not None:
            what = f"exchange '{name}'"
            check_equivalent_property(what, self.name, "type", type_name, current.TYPE)
            check_equivalent_property(what, self.name, "durable", durable, current.durable)
            check_equivalent_property(what, self.name, "auto_delete", auto_delete, current.auto_delete)
            check_equivalent_property(what, self.name, "internal", internal, current.internal)
            check_equivalent_argument(what, self.name, "alternate-exchange", arguments, current.arguments)
            return current.durable
        if name.startswith("amq."):
            raise AccessRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        alternate = arguments.get("alternate-exchange", "")
        if not isinstance(alternate, str):
            raise invalid_exchange_type("alternate-exchange", alternate, what=f"exchange '{name}'", vhost=self.name)
        self.exchanges[name] = type_(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self.routes.clear()
        if durable:
            self.broker.journal.topology.append(ExchangeRecord(self.name, name, type_name, auto_delete, internal, arguments))
        return durable

    def delete_exchange(self, name: str, *, if_unused: bool) -> bool:
        """Delete an exchange and its bindings; return whether the change is to be made durable.

        Raises:
            AccessRefused: A predeclared exchange.
            PreconditionFailed: It has bindings and ``if_unused`` was asked.
        """
        if name.startswith("amq."):
            raise AccessRefused(f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return False
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._drop_exchange(exchange)
        return exchange.durable

    def _drop_exchange(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        for binding in [*exchange.bindings, *exchange.incoming]:
            self._drop_binding(binding)
        self.routes.clear()
        if exchange.durable:
            self.broker.journal.topology.append(RemoveExchange(self.name, exchange.name))

    # ------------------------------------------------------------------------------------------- bindings

    def bind(self, source: Exchange, destination: Queue | Exchange, routing_key: str, arguments: Table) -> bool:
        """Bind, unless the same binding exists; return whether it is durable."""
        binding = source.find(destination, routing_key, arguments)
        if binding is not None:
            return _is_durable(binding)
        binding = Binding(source, destination, routing_key, arguments)
        source.add(binding)
        destination.incoming[binding] = None
        self.routes.clear()
        if not _is_durable(binding):
            return False
        self.broker.journal.topology.append(self._record(binding))
        return True

    def unbind(self, source: Exchange, destination: Queue | Exchange, routing_key: str, arguments: Table) -> bool:
        """Remove a binding if it exists; return whether the change is to be made durable."""
        binding = source.find(destination, routing_key, arguments)
        if binding is None:
            return False
        self._drop_binding(binding)
        self.routes.clear()
        return _is_durable(binding)

    def _drop_binding(self, binding: Binding) -> None:
        source, destination = binding.source, binding.destination
        if binding not in source.bindings:
            return
        source.remove(binding)
        del destination.incoming[binding]
        if _is_durable(binding):
            self.broker.journal.topology.append(RemoveBinding(self._record(binding)))
        # An auto-delete exchange goes with its last binding, never before its first (AMQP 0-9-1, exchange.declare).
        if source.auto_delete and not source.bindings and self.exchanges.get(source.name) is source:
            self._drop_exchange(source)

    def _record(self, binding: Binding) -> BindingRecord:
        destination = binding.destination
        return BindingRecord(
            self.name,
            binding.source.name,
            destination.name,
            isinstance(destination, Exchange),
            binding.routing_key,
            binding.arguments,
        )

    # --------------------------------------------------------------------------------------------- queues

    def queue(self, name: str, session: Session) -> Queue:
        """Return a queue by name, for this session.

        Raises:
            NotFound: There is none.
            ResourceLocked: It belongs to another connection.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"no queue '{name}' in vhost '{self.name}'")
        if queue.owner is not None and queue.owner is not session:
            raise self._locked(name)
        return queue

    def _locked(self, name: str) -> ResourceLocked:
        return ResourceLocked(
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'. It could be originally declared "
            "on another connection or the exclusive property value does not match that of the original declaration."
        )

    def declare_queue(
        self, name: str, session: Session, *, durable: bool, exclusive: bool, auto_delete: bool, arguments: Table, now_s: float
    ) -> Queue:
        """Create a queue, or check that the one that exists is the same; return it.

        Raises:
            AccessRefused: A reserved name.
            PreconditionFailed: Bad arguments, or it exists with other properties.
            ResourceLocked: It is another connection's, or its exclusiveness differs.
        """
        current = self.queues.get(name)
        if current is not None:
            what = f"queue '{name}'"
            if (current.owner is not None and current.owner is not session) or current.is_exclusive != exclusive:
                raise self._locked(name)
            check_equivalent_property(what, self.name, "durable", durable and not exclusive, current.durable)
            check_equivalent_property(what, self.name, "auto_delete", auto_delete, current.auto_delete)
            for argument in known_queue_arguments:
                check_equivalent_argument(what, self.name, argument, arguments, current.arguments)
            current.last_used_s = now_s
            return current
        settings = QueueArguments.parse(arguments, queue=name, vhost=self.name)
        queue = Queue(
            self.broker.new_queue_id(),
            name,
            self,
            durable=durable and not exclusive,
            owner=session if exclusive else None,
            auto_delete=auto_delete,
            arguments=arguments,
            settings=settings,
            now_s=now_s,
        )
        self.queues[name] = queue
        self.routes.clear()
        if exclusive:
            session.exclusive_queues.add(queue)
        if queue.durable:
            self.broker.journal.topology.append(QueueRecord(queue.id, self.name, name, auto_delete, arguments))
        if settings.expires_ms is not None:
            self.broker.watch(queue)
        return queue

    def purge(self, queue: Queue) -> int:
        """Drop the ready messages; return how many."""
        count = len(queue.backlog)
        for _ in range(count):
            self.discard(queue, queue.backlog.pop())
        return count

    def delete_queue(self, queue: Queue) -> None:
        """Delete a queue with its messages, bindings and consumers; these are told (basic.cancel), if their client can be."""
        del self.queues[queue.name]
        queue.is_deleted = True
        for binding in list(queue.incoming):
            self._drop_binding(binding)
        self.routes.clear()
        if queue.owner is not None:
            queue.owner.exclusive_queues.discard(queue)
        for consumer in list(queue.consumers):
            queue.remove_consumer(consumer)
            consumer.is_cancelled = True
            consumer.channel.consumers.pop(consumer.tag, None)
            consumer.channel.session.notify_cancel(consumer)
        if queue.durable:
            journal = self.broker.journal
            for entry in self._entries(queue):
                if entry.batch:
                    journal.remove(queue.id, entry, with_queue=True)
            journal.topology.append(RemoveQueue(queue.id))

    def _entries(self, queue: Queue) -> Iterator[Entry]:
        """Yield every entry of a queue: the ready ones, then those that wait for an acknowledgement."""
        yield from queue.backlog
        if queue.unacked_count:
            for session in self.broker.sessions:
                for channel in session.channels.values():
                    for held_by, entry, _ in channel.unacked.values():
                        if held_by is queue:
                            yield entry

    def remove_consumer(self, consumer: Consumer, now_s: float) -> None:
        """Cancel a consumer; an auto-delete queue goes with its last one."""
        queue = consumer.queue
        consumer.is_cancelled = True
        consumer.channel.consumers.pop(consumer.tag, None)
        if queue.is_deleted:
            return
        queue.remove_consumer(consumer)
        if queue.consumers:
            return
        queue.last_used_s = now_s
        if queue.auto_delete and queue.had_consumer:
            self.delete_queue(queue)
        elif queue.settings.expires_ms is not None:
            self.broker.watch(queue)


def _is_durable(binding: Binding) -> bool:
    """Tell whether a binding is written to disk: both of its ends are."""
    return binding.source.durable and binding.destination.durable
