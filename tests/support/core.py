"""The broker's core without I/O: the test is its shell, its disk and its clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from leveret.amqp.events import MULTIPLE_BIT, NACK_BIT, REQUEUE_BIT
from leveret.amqp.methods import Method, basic, confirm, exchange, queue
from leveret.amqp.properties import BasicProperties, decode_header, encode_header
from leveret.amqp.tables import Table, decode_shortstr, encode_shortstr
from leveret.broker.core.broker import Broker
from leveret.broker.core.effects import CONFIRM, DELIVER
from leveret.broker.core.journal import Batch
from leveret.broker.core.message import Entry, Message
from leveret.broker.core.session import Session
from leveret.broker.storage.base import Storage
from leveret.broker.storage.memory import MemoryStorage

__all__ = ["Confirmed", "CoreBroker", "CoreClient", "Delivered", "Sent", "entry", "message", "route"]

M = TypeVar("M", bound=Method)


def route(exchange_name: str, routing_key: str) -> bytes:
    """Return exchange and routing key as they stand in basic.publish."""
    return encode_shortstr(exchange_name, "exchange") + encode_shortstr(routing_key, "routing-key")


def message(id_: int = 1, body: bytes = b"body", *, priority: int = 0, persistent: bool = True, **properties: Any) -> Message:
    """Make a message as the core keeps it."""
    mode = 2 if persistent else 1
    header = encode_header(len(body), BasicProperties(delivery_mode=mode, priority=priority, **properties))
    return Message(id_, route("", "queue"), header, body, persistent, priority, None)


def entry(position: int, *, priority: int = 0) -> Entry:
    """Make a place in a queue."""
    return Entry(message(position, priority=priority), position, None)


class Delivered(NamedTuple):
    """What basic.deliver brings."""

    channel: int
    consumer_tag: str
    tag: int
    redelivered: bool
    message: Message

    @property
    def body(self) -> bytes:
        """The message's body."""
        return self.message.body

    @property
    def headers(self) -> Table:
        """The message's headers."""
        return self.properties.headers or {}

    @property
    def properties(self) -> BasicProperties:
        """The message's properties."""
        return decode_header(self.message.header)[1]

    @property
    def route(self) -> tuple[str, str]:
        """Exchange and routing key."""
        name, offset = decode_shortstr(self.message.route, 0)
        return name, decode_shortstr(self.message.route, offset)[0]


class Confirmed(NamedTuple):
    """A publisher confirm."""

    channel: int
    tag: int
    multiple: bool


class Sent(NamedTuple):
    """Any other method."""

    channel: int
    method: Method
    header: bytes | None
    body: bytes


class CoreBroker:
    """A core whose time stands still and whose disk writes when the test says so."""

    def __init__(self, storage: Storage | None = None, *, now_s: float = 1_800_000_000.0) -> None:
        numbers = itertools.count(1)
        self.now_s = now_s
        self.storage = storage or MemoryStorage()
        self.core = Broker(lambda: f"name-{next(numbers)}")
        self.core.restore(self.storage.load(), self.now_s)
        if "/" not in self.core.vhosts:
            self.core.add_vhost("/")
        self.unwritten: list[Batch] = []
        """Handed to the disk and not there yet."""
        self.written: list[Batch] = []

    def connect(self, vhost: str = "/", *, user: str = "guest", takes_cancel: bool = True) -> CoreClient:
        """Log a client in and open its channel 1."""
        client = CoreClient(self, self.core.connect(vhost, user, takes_cancel=takes_cancel))
        client.open(1)
        return client

    def turn(self) -> None:
        """Do what the shell does once per turn of its loop, but for sending the outboxes."""
        self.core.run_due(self.now_s)
        if not self.core.journal.is_empty:
            self.unwritten.append(self.core.take_batch())

    def commit(self, count: int | None = None) -> None:
        """Bring the oldest batches handed over to disk in one transaction, all of them by default, and say so."""
        if batches := self.unwritten[:count]:
            self.storage.write(batches)
            self.written += batches
            del self.unwritten[:count]
            self.core.committed_through(batches[-1].id)

    def stop(self) -> None:
        """Stop in good order: sessions end, everything is written, the storage is closed as clean."""
        for session in list(self.core.sessions):
            session.close(self.now_s)
        self.turn()
        self.commit()
        self.storage.close(self.core.redelivered())

    def crash(self) -> None:
        """Stop as a crash would: what is not on disk is lost."""
        self.storage.close(None)

    def advance(self, seconds: float) -> None:
        """Let time pass, and do what is due then."""
        self.now_s += seconds
        self.core.tick(self.now_s)
        self.turn()

    def ready(self, name: str, vhost: str = "/") -> list[bytes]:
        """Return the bodies that are ready in a queue, the next one first."""
        return [each.message.body for each in self.core.vhosts[vhost].queues[name].backlog]


class CoreClient:
    """A client of the core: calls in, effects out. ``turn`` is called for it, so that effects are there at once."""

    def __init__(self, broker: CoreBroker, session: Session) -> None:
        self.broker = broker
        self.session = session

    def open(self, number: int) -> None:
        """Open a channel."""
        self.session.open_channel(number)

    def take(self) -> list[Delivered | Confirmed | Sent]:
        """Return what the broker has sent since the last call, in order, after a turn."""
        self.broker.turn()
        found: list[Delivered | Confirmed | Sent] = []
        for effect in self.session.take_outbox():
            if effect[0] == DELIVER:
                found.append(Delivered(effect[1], effect[2][1:].decode(), effect[3], effect[4], effect[5]))
            elif effect[0] == CONFIRM:
                found.append(Confirmed(*effect[1:]))
            else:
                found.append(Sent(*effect[1:]))
        if self.session.is_congested:
            self.session.resume_output()
        return found

    def deliveries(self) -> list[Delivered]:
        """Return the deliveries among what the broker has sent; nothing else came."""
        return _only(Delivered, self.take())

    def bodies(self) -> list[bytes]:
        """Return the bodies of the deliveries."""
        return [each.body for each in self.deliveries()]

    def confirms(self) -> list[tuple[int, bool]]:
        """Return (delivery tag, multiple) of the confirms; nothing else came."""
        return [(each.tag, each.multiple) for each in _only(Confirmed, self.take())]

    # ------------------------------------------------------------------------------------------------- calls

    def send(self, method: Method, channel: int = 1) -> None:
        """Have a method obeyed, behind the deliveries of what was published before."""
        self.broker.core.deliver_due(self.broker.now_s)
        self.session.handle(channel, method, self.broker.now_s)

    def call(self, method: Method, reply: type[M], channel: int = 1) -> M:
        """Have a method obeyed and return its reply, once what it has changed is on disk; nothing else came."""
        self.send(method, channel)
        (sent,) = _only(Sent, self.take())
        if self.session.awaited_batch > self.broker.core.committed:
            self.broker.commit()
        assert isinstance(sent.method, reply)
        return sent.method

    def declare(self, name: str = "", **options: Any) -> str:
        """Declare a queue and return its name."""
        return self.call(queue.Declare(queue=name, **options), queue.DeclareOk).queue

    def declare_exchange(self, name: str, type_: str = "direct", **options: Any) -> None:
        """Declare an exchange."""
        self.call(exchange.Declare(exchange=name, type=type_, **options), exchange.DeclareOk)

    def bind(self, queue_name: str, exchange_name: str, routing_key: str = "", arguments: Table | None = None) -> None:
        """Bind a queue to an exchange."""
        bind = queue.Bind(queue=queue_name, exchange=exchange_name, routing_key=routing_key, arguments=arguments or {})
        self.call(bind, queue.BindOk)

    def count(self, name: str) -> int:
        """Return how many messages are ready in a queue."""
        return self.call(queue.Declare(queue=name, passive=True), queue.DeclareOk).message_count

    def confirm_select(self, channel: int = 1) -> None:
        """Ask for publisher confirms."""
        self.call(confirm.Select(), confirm.SelectOk, channel)

    def publish(
        self,
        routing_key: str,
        body: bytes = b"body",
        *,
        exchange_name: str = "",
        channel: int = 1,
        mandatory: bool = False,
        persistent: bool = True,
        **properties: Any,
    ) -> None:
        """Publish one message."""
        header = encode_header(len(body), BasicProperties(delivery_mode=2 if persistent else 1, **properties))
        self.session.channels[channel].publish(route(exchange_name, routing_key), mandatory, header, body, self.broker.now_s)

    def publish_all(self, routing_key: str, bodies: Iterable[bytes], **options: Any) -> None:
        """Publish messages in order."""
        for body in bodies:
            self.publish(routing_key, body, **options)

    def qos(self, count: int, *, shared: bool = False, channel: int = 1) -> None:
        """Limit the unacknowledged deliveries of each later consumer, or of the channel."""
        self.call(basic.Qos(prefetch_count=count, global_=shared), basic.QosOk, channel)

    def consume(self, name: str, tag: str = "tag", channel: int = 1, **options: Any) -> None:
        """Start a consumer; its first deliveries are left for the next ``take``."""
        self.session.handle(channel, basic.Consume(queue=name, consumer_tag=tag, **options), self.broker.now_s)
        (sent,) = _only(Sent, [Sent(*effect[1:]) for effect in self.session.take_outbox() if effect[0] not in (DELIVER, CONFIRM)])
        assert isinstance(sent.method, basic.ConsumeOk)

    def get(self, name: str, *, no_ack: bool = False) -> Sent | None:
        """Fetch one message; None when there is none."""
        self.send(basic.Get(queue=name, no_ack=no_ack))
        (sent,) = _only(Sent, self.take())
        return sent if isinstance(sent.method, basic.GetOk) else None

    def ack(self, tag: int, *, multiple: bool = False, channel: int = 1) -> None:
        """Acknowledge deliveries."""
        self._settle(tag, multiple * MULTIPLE_BIT, channel)

    def nack(self, tag: int, *, requeue: bool, multiple: bool = False, channel: int = 1) -> None:
        """Refuse deliveries."""
        self._settle(tag, NACK_BIT | multiple * MULTIPLE_BIT | requeue * REQUEUE_BIT, channel)

    def _settle(self, tag: int, kind: int, channel: int) -> None:
        self.session.channels[channel].settle(tag, kind, self.broker.now_s)

    def close_channel(self, number: int) -> None:
        """Close a channel, as the shell does for a client or over an error."""
        self.session.close_channel(number, self.broker.now_s)

    def close(self) -> None:
        """End the session, as the shell does when the connection is gone."""
        self.session.close(self.broker.now_s)


E = TypeVar("E", Delivered, Confirmed, Sent)


def _only(kind: type[E], found: Iterable[Delivered | Confirmed | Sent]) -> list[E]:
    kept = []
    for each in found:
        assert isinstance(each, kind), f"expected only {kind.__name__}, got {each}"
        kept.append(each)
    return kept
