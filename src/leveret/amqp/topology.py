"""What a program declares on a broker before it uses it: exchanges, queues and the bindings between them.

Values only, written as Celery's users write kombu's::

    Queue("tasks", Exchange("tasks"), routing_key="tasks", queue_arguments={"x-max-priority": 10})
    Queue("audit", Exchange("logs", type="topic"), routing_key="billing.#")
    Queue("mail")                                   # on the default exchange, where its routing key is its name

They are frozen, and equal when the broker would see no difference, so that a connection can remember what it has declared.
Hashes leave the arguments out: tables hold lists and tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from leveret.amqp.constants import SHORTSTR_SIZE_MAX
from leveret.amqp.tables import FieldValue
from leveret.errors import ConfigurationError

__all__ = [
    "DEFAULT_EXCHANGE",
    "EXCHANGE_TYPES",
    "PRIORITY_MAX",
    "Arguments",
    "Binding",
    "Exchange",
    "Queue",
]

Arguments: TypeAlias = Mapping[str, FieldValue]

EXCHANGE_TYPES: Final = ("direct", "fanout", "topic", "headers")
"""The types every broker has (AMQP 0-9-1, 3.1.3); those of plug-ins begin with ``x-``."""

PRIORITY_MAX: Final = 255
"""The highest ``x-max-priority`` a classic queue takes; RabbitMQ advises against more than 10."""

_MAX_PRIORITY: Final = "x-max-priority"


def _check_name(name: str, what: str) -> None:
    size_bytes = len(name.encode())
    if size_bytes > SHORTSTR_SIZE_MAX:
        raise ConfigurationError(f"{what} {name[:40]!r}… has {size_bytes} bytes; AMQP 0-9-1 takes {SHORTSTR_SIZE_MAX}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange; ``Exchange()`` is the default exchange, which every broker has and nobody declares.

    Raises:
        ConfigurationError: a name longer than 255 bytes, or a type that is neither AMQP's nor begins with ``x-``.

    """

    name: str = ""
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Arguments = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_name(self.name, "the exchange name")
        if self.type not in EXCHANGE_TYPES and not self.type.startswith("x-"):
            known = ", ".join(EXCHANGE_TYPES)
            raise ConfigurationError(
                f"exchange {self.name!r} has the type {self.type!r}; known are {known}, and those beginning x-"
            )
        if not self.name and self.type != "direct":
            raise ConfigurationError(f"an exchange of type {self.type!r} needs a name; the one without is the default exchange")
        object.__setattr__(self, "arguments", dict(self.arguments))

    @property
    def is_default(self) -> bool:
        """Tell whether this is the default exchange, to which every queue is bound by its name."""
        return not self.name


DEFAULT_EXCHANGE: Final = Exchange()


@dataclass(frozen=True, slots=True)
class Binding:
    """What makes an exchange hand messages to a queue: the routing key, and arguments for a headers exchange.

    Raises:
        ConfigurationError: a routing key longer than 255 bytes, or the default exchange, on which nothing can be bound.

    """

    exchange: Exchange
    routing_key: str = ""
    arguments: Arguments = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_name(self.routing_key, "the routing key")
        if self.exchange.is_default:
            raise ConfigurationError(f"nothing can be bound to the default exchange (routing key {self.routing_key!r})")
        object.__setattr__(self, "arguments", dict(self.arguments))


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue and where its messages come from.

    ``exchange`` and ``routing_key`` say how producers reach it; without an exchange it is reached through the default
    exchange by its name. ``bindings`` are further ones. ``max_priority`` and the argument ``x-max-priority`` are two ways of
    writing one thing: either gives both.

    Raises:
        ConfigurationError: no name, a name longer than 255 bytes, a priority out of range or on a quorum queue (brokers refuse
            it there), or two values for it.

    """

    name: str
    exchange: Exchange = DEFAULT_EXCHANGE
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    queue_arguments: Arguments = field(default_factory=dict, hash=False)
    binding_arguments: Arguments = field(default_factory=dict, hash=False)
    bindings: tuple[Binding, ...] = ()
    max_priority: int | None = None

    def __init__(
        self,
        name: str,
        exchange: Exchange | str | None = None,
        routing_key: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        queue_arguments: Arguments | None = None,
        binding_arguments: Arguments | None = None,
        bindings: Iterable[Binding] = (),
        max_priority: int | None = None,
    ) -> None:
        """Take kombu's notation: the exchange may be its name, and None is the default exchange."""
        if not name:
            raise ConfigurationError("a queue needs a name, so that producers and workers mean the same one")
        _check_name(name, "the queue name")
        _check_name(routing_key, "the routing key")
        exchange = Exchange(exchange) if isinstance(exchange, str) else exchange or DEFAULT_EXCHANGE
        if exchange.is_default:
            if routing_key not in ("", name):
                raise ConfigurationError(
                    f"queue {name!r} without an exchange is reached by its name only, not by {routing_key!r}"
                )
            routing_key = name
        arguments = dict(queue_arguments or {})
        values: dict[str, object] = {
            "name": name,
            "exchange": exchange,
            "routing_key": routing_key,
            "durable": durable,
            "exclusive": exclusive,
            "auto_delete": auto_delete,
            "max_priority": _settle_max_priority(name, arguments, max_priority),
            "queue_arguments": arguments,
            "binding_arguments": dict(binding_arguments or {}),
            "bindings": tuple(bindings),
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    @property
    def all_bindings(self) -> tuple[Binding, ...]:
        """Return every binding to declare; none for a queue that lives on the default exchange alone."""
        if self.exchange.is_default:
            return self.bindings
        return (
            Binding(self.exchange, self.routing_key, self.binding_arguments),
            *self.bindings,
        )


def _settle_max_priority(name: str, arguments: dict[str, FieldValue], max_priority: int | None) -> int | None:
    """Write the highest priority into ``arguments`` and return it; None when the queue has no priorities."""
    given = arguments.get(_MAX_PRIORITY, max_priority)
    if given is None:
        return None
    if max_priority is not None and given != max_priority:
        raise ConfigurationError(f"queue {name!r} has max_priority={max_priority} and {_MAX_PRIORITY}={given!r}; give one")
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= PRIORITY_MAX:
        raise ConfigurationError(
            f"queue {name!r} has {_MAX_PRIORITY}={given!r}; it takes a whole number from 1 to {PRIORITY_MAX}"
        )
    if arguments.get("x-queue-type") == "quorum":
        raise ConfigurationError(f"queue {name!r} is a quorum queue, which takes no {_MAX_PRIORITY}; use one queue per priority")
    arguments[_MAX_PRIORITY] = given
    return given
