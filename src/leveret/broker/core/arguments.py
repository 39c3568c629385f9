"""The optional arguments of queues, validated, and the equivalence of declarations.

Texts as RabbitMQ's (https://www.rabbitmq.com/docs/queues#optional-arguments). Unknown ``x-`` arguments are kept and
ignored, as there; those it knows and this broker does not serve yet are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final

from leveret.amqp.tables import FieldValue, Table
from leveret.errors import PreconditionFailed

__all__ = [
    "Overflow",
    "QueueArguments",
    "check_equivalent_argument",
    "check_equivalent_property",
    "consumer_priority",
    "field_type",
    "known_queue_arguments",
]

TTL_MS_MAX: Final = 315_360_000_000
"""Ten years, RabbitMQ's limit of every time to live."""

UNAVAILABLE: Final = ("x-single-active-consumer",)
"""Arguments that change what becomes of messages: better refused than ignored."""

LENGTH_MAX: Final = (1 << 63) - 1
"""The largest limit of a queue's length that can be written, which is RabbitMQ's."""

known_queue_arguments: Final = (
    "x-message-ttl",
    "x-expires",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-type",
)
"""The arguments that take part in the equivalence of two declarations."""


class Overflow(Enum):
    """What a full queue does (https://www.rabbitmq.com/docs/maxlength#overflow-behaviour)."""

    DROP_HEAD = "drop-head"
    REJECT_PUBLISH = "reject-publish"
    REJECT_PUBLISH_DLX = "reject-publish-dlx"


@dataclass(frozen=True, slots=True)
class QueueArguments:
    """What a queue's arguments ask for; times in milliseconds, limits of the ready messages in messages and body bytes."""

    message_ttl_ms: int | None = None
    expires_ms: int | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    priority_max: int | None = None
    length_max: int | None = None
    length_bytes_max: int | None = None
    overflow: Overflow = Overflow.DROP_HEAD

    @property
    def is_limited(self) -> bool:
        """Tell whether the queue can be full."""
        return self.length_max is not None or self.length_bytes_max is not None

    @classmethod
    def parse(cls, arguments: Table, *, queue: str, vhost: str) -> QueueArguments:
        """Validate the arguments of a new queue.

        Raises:
            PreconditionFailed: ``invalid arg 'x-...' for queue 'q' in vhost '/': ...``.
        """

        def refuse(name: str, why: str) -> PreconditionFailed:
            return _invalid(name, why, queue=queue, vhost=vhost)

        def integer(name: str, *, largest: int, smallest: int = 0) -> int | None:
            value = arguments.get(name)
            if name not in arguments:
                return None
            if not isinstance(value, int) or isinstance(value, bool):
                raise refuse(name, f'"expected integer, got {field_type(value)}"')
            if value < 0:
                raise refuse(name, f"{{value_negative,{value}}}")
            if value < smallest:
                raise refuse(name, f"{{value_zero,{value}}}")
            if value > largest:
                too_large = "max_value_exceeded" if name == "x-max-priority" else "value_too_large"
                raise refuse(name, f"{{{too_large},{value}}}")
            return value

        def text(name: str) -> str | None:
            value = arguments.get(name)
            if name not in arguments:
                return None
            if not isinstance(value, str):
                raise refuse(name, f'"expected longstr, got {field_type(value)}"')
            return value

        overflow = text("x-overflow")
        if overflow is not None and overflow not in {policy.value for policy in Overflow}:
            raise refuse("x-overflow", "invalid_overflow")
        for name in UNAVAILABLE:
            if arguments.get(name):
                raise refuse(name, "not available on this broker yet")
        parsed = cls(
            message_ttl_ms=integer("x-message-ttl", largest=TTL_MS_MAX),
            expires_ms=integer("x-expires", largest=TTL_MS_MAX, smallest=1),
            dead_letter_exchange=text("x-dead-letter-exchange"),
            dead_letter_routing_key=text("x-dead-letter-routing-key"),
            priority_max=integer("x-max-priority", largest=255),
            length_max=integer("x-max-length", largest=LENGTH_MAX),
            length_bytes_max=integer("x-max-length-bytes", largest=LENGTH_MAX),
            overflow=Overflow.DROP_HEAD if overflow is None else Overflow(overflow),
        )
        if parsed.dead_letter_routing_key is not None and parsed.dead_letter_exchange is None:
            raise refuse("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")
        queue_type = text("x-queue-type")
        if queue_type not in (None, "classic"):
            raise refuse("x-queue-type", f"\"unsupported queue type '{queue_type}'\"")
        return parsed


def consumer_priority(arguments: Table, *, queue: str, vhost: str) -> int:
    """Return the ``x-priority`` of basic.consume, 0 when there is none.

    Raises:
        PreconditionFailed: It is not an integer.
    """
    value = arguments.get("x-priority", 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid("x-priority", f'"expected integer, got {field_type(value)}"', queue=queue, vhost=vhost)
    return value


def _invalid(name: str, why: str, *, queue: str, vhost: str) -> PreconditionFailed:
    return PreconditionFailed(f"invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': {why}")


def check_equivalent_property(what: str, vhost: str, name: str, received: FieldValue, current: FieldValue) -> None:
    """Compare a property of a redeclaration with what exists.

    Raises:
        PreconditionFailed: They differ; the text names both values. ``what`` is ``queue 'q'`` or ``exchange 'e'``.
    """
    if received != current:
        raise PreconditionFailed(
            f"inequivalent arg '{name}' for {what} in vhost '{vhost}': "
            f"received {_shown(received)} but current is {_shown(current)}"
        )


def check_equivalent_argument(what: str, vhost: str, name: str, received: Table, current: Table) -> None:
    """Compare one known argument of a redeclaration with what exists; integers compare by value, whatever their size.

    Raises:
        PreconditionFailed: They differ; the text names both values.
    """
    new, old = received.get(name), current.get(name)
    if name == "x-queue-type":
        new, old = new or "classic", old or "classic"
    if (name in received) == (name in current) or name == "x-queue-type":
        if new == old:
            return
        if type(new) is type(old):
            check_equivalent_property(what, vhost, name, new, old)
    raise PreconditionFailed(
        f"inequivalent arg '{name}' for {what} in vhost '{vhost}': "
        f"received {_described(received, name)} but current is {_described(current, name)}"
    )


def _described(arguments: Table, name: str) -> str:
    if name not in arguments:
        return "none"
    return f"the value {_shown(arguments[name])} of type '{field_type(arguments[name])}'"


def _shown(value: FieldValue) -> str:
    if isinstance(value, bool):
        return f"'{str(value).lower()}'"
    return f"'{value.decode(errors='replace') if isinstance(value, bytes) else value}'"


def field_type(value: FieldValue) -> str:
    """Name a field's type as RabbitMQ's texts do."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    if isinstance(value, str):
        return "longstr"
    if isinstance(value, bytes):
        return "binary"
    if isinstance(value, float):
        return "double"
    if isinstance(value, Decimal):
        return "decimal"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "table"
    return "void" if value is None else "timestamp"
