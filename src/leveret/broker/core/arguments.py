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
    "erlang_term",
    "field_type",
    "invalid_exchange_type",
    "known_queue_arguments",
]

TTL_MS_MAX: Final = 315_360_000_000
"""Ten years, RabbitMQ's limit of every time to live."""

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
    "x-queue-mode",
    "x-queue-type",
    "x-single-active-consumer",
)
"""The arguments that take part in the equivalence of two declarations."""

_OF_OTHER_TYPES: Final = frozenset(
    (
        "x-delivery-limit",
        "x-initial-cluster-size",
        "x-max-age",
        "x-max-in-memory-bytes",
        "x-max-in-memory-length",
        "x-queue-leader-locator",
        "x-quorum-initial-group-size",
        "x-stream-max-segment-size-bytes",
    )
)
"""What only RabbitMQ's quorum queues and streams take."""
_QUEUE_MODES: Final = ("default", "lazy")
_QUEUE_VERSIONS: Final = (1, 2)
"""How RabbitMQ is to keep messages; nothing follows from them here."""


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
                raise refuse(name, f"{{unacceptable_type,{field_type(value)}}}")
            return value

        for name in arguments:
            if name in _OF_OTHER_TYPES:
                raise PreconditionFailed(
                    f"invalid arg '{name}' for queue '{queue}' in vhost '{vhost}' of queue type rabbit_classic_queue"
                )
        overflow = text("x-overflow")
        if overflow is not None and overflow not in {policy.value for policy in Overflow}:
            raise refuse("x-overflow", "invalid_overflow")
        mode, version = text("x-queue-mode"), integer("x-queue-version", largest=LENGTH_MAX)
        if mode is not None and mode not in _QUEUE_MODES:
            raise refuse("x-queue-mode", f"\"unsupported queue mode '{mode}'\"")
        if version is not None and version not in _QUEUE_VERSIONS:
            raise refuse("x-queue-version", f"\"unsupported queue version '{version}'\"")
        single = arguments.get("x-single-active-consumer", False)
        if not isinstance(single, bool):
            raise refuse("x-single-active-consumer", f"{{unacceptable_type,{field_type(single)}}}")
        if single:
            # It changes what becomes of messages: better refused than ignored.
            raise refuse("x-single-active-consumer", "not available on this broker yet")
        dead_letter_exchange = arguments.get("x-dead-letter-exchange", "")
        if not isinstance(dead_letter_exchange, str):
            raise invalid_exchange_type("x-dead-letter-exchange", dead_letter_exchange, what=f"queue '{queue}'", vhost=vhost)
        parsed = cls(
            message_ttl_ms=integer("x-message-ttl", largest=TTL_MS_MAX),
            expires_ms=integer("x-expires", largest=TTL_MS_MAX, smallest=1),
            dead_letter_exchange=dead_letter_exchange if "x-dead-letter-exchange" in arguments else None,
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


def invalid_exchange_type(name: str, value: FieldValue, *, what: str, vhost: str) -> PreconditionFailed:
    """Return the error for an argument that should name an exchange; ``what`` as in ``check_equivalent_property``."""
    return PreconditionFailed(f"invalid type '{field_type(value)}' for arg '{name}' in {what} in vhost '{vhost}'")


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
    if received != current or type(received) is not type(current):
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
        check_equivalent_property(what, vhost, name, new, old)
        return
    raise PreconditionFailed(
        f"inequivalent arg '{name}' for {what} in vhost '{vhost}': "
        f"received {_described(received, name)} but current is {_described(current, name)}"
    )


def _described(arguments: Table, name: str) -> str:
    if name not in arguments:
        return "none"
    return f"the value {_shown(arguments[name])} of type '{field_type(arguments[name])}'"


def _shown(value: FieldValue) -> str:
    return f"'{erlang_term(value)}'"


def erlang_term(value: FieldValue) -> str:
    """Write a value as RabbitMQ's texts do, as far as they are met with."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "undefined"
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


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
