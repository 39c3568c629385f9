"""What a child tells the supervisor when it has imported the app, or could not.

The supervisor never imports user code, so this is all it knows of the app. Field tables travel in AMQP's own encoding: it is
the one that keeps every type they may hold.
"""

from __future__ import annotations

import msgspec

from leveret.amqp.tables import decode_table, encode_table
from leveret.amqp.topology import Arguments, Binding, Exchange, Queue

__all__ = ["AppFacts", "Policy", "QueueFacts", "StartFailed"]


class StartFailed(msgspec.Struct, frozen=True):
    """Why a child could not start."""

    message: str
    """One sentence for the user."""
    traceback: str
    """Of the user's code; empty when it adds nothing."""


class Policy(msgspec.Struct, frozen=True):
    """How a task's deliveries are treated, where an outcome alone does not decide."""

    acks_late: bool
    acks_failures: bool
    reruns_when_lost: bool


class ExchangeFacts(msgspec.Struct, frozen=True):
    """An exchange, as a value that travels."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    arguments: bytes

    @classmethod
    def of(cls, exchange: Exchange) -> ExchangeFacts:
        """Pack an exchange."""
        return cls(exchange.name, exchange.type, exchange.durable, exchange.auto_delete, _pack(exchange.arguments))

    def exchange(self) -> Exchange:
        """Unpack it."""
        return Exchange(self.name, self.type, self.durable, self.auto_delete, _unpack(self.arguments))


class BindingFacts(msgspec.Struct, frozen=True):
    """A binding, as a value that travels."""

    exchange: ExchangeFacts
    routing_key: str
    arguments: bytes

    @classmethod
    def of(cls, binding: Binding) -> BindingFacts:
        """Pack a binding."""
        return cls(ExchangeFacts.of(binding.exchange), binding.routing_key, _pack(binding.arguments))

    def binding(self) -> Binding:
        """Unpack it."""
        return Binding(self.exchange.exchange(), self.routing_key, _unpack(self.arguments))


class QueueFacts(msgspec.Struct, frozen=True):
    """A queue, as a value that travels."""

    name: str
    exchange: ExchangeFacts
    routing_key: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    queue_arguments: bytes
    binding_arguments: bytes
    bindings: list[BindingFacts]

    @classmethod
    def of(cls, queue: Queue) -> QueueFacts:
        """Pack a queue."""
        return cls(
            queue.name,
            ExchangeFacts.of(queue.exchange),
            queue.routing_key,
            queue.durable,
            queue.exclusive,
            queue.auto_delete,
            _pack(queue.queue_arguments),
            _pack(queue.binding_arguments),
            [BindingFacts.of(binding) for binding in queue.bindings],
        )

    def queue(self) -> Queue:
        """Unpack it."""
        return Queue(
            self.name,
            self.exchange.exchange(),
            self.routing_key,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            queue_arguments=_unpack(self.queue_arguments),
            binding_arguments=_unpack(self.binding_arguments),
            bindings=[binding.binding() for binding in self.bindings],
        )


class AppFacts(msgspec.Struct, frozen=True):
    """The app: what the supervisor has to know of it."""

    app_name: str
    pid: int
    broker_url: str
    result_backend: str | None
    result_expires_s: float
    connect_timeout_s: float
    heartbeat_s: int
    concurrency: int | None
    prefetch_multiplier: int | None
    shutdown_timeout_s: float
    crash_limit: int
    queue_max_priority: int | None
    queues: list[QueueFacts]
    """Those to consume when the user names none: all that the app names."""
    tasks: list[str]
    policy: Policy
    policies: dict[str, Policy]
    """Of the tasks whose own options differ."""


def _pack(table: Arguments) -> bytes:
    return encode_table(dict(table))


def _unpack(data: bytes) -> Arguments:
    return decode_table(data, 0)[0]
