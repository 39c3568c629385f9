"""The exchange types: where a message goes, given its routing key and headers.

A binding leads to a queue or to another exchange; both are ``Destination``s. Which bindings match is all that differs
between the types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from leveret.amqp.tables import FieldValue, Table
from leveret.broker.core.arguments import erlang_term, field_type
from leveret.errors import PreconditionFailed

if TYPE_CHECKING:
    from leveret.broker.core.queue import Queue

__all__ = [
    "EXCHANGE_TYPES",
    "Binding",
    "Destination",
    "DirectExchange",
    "Exchange",
    "FanoutExchange",
    "HeadersExchange",
    "TopicExchange",
]

_MATCH_MODES: Final = ("all", "any", "all-with-x", "any-with-x")

Destination: TypeAlias = "Queue | Exchange"


@dataclass(eq=False, slots=True)
class Binding:
    """A rule that leads from an exchange to a queue or to another exchange."""

    source: Exchange
    destination: Destination
    routing_key: str
    arguments: Table = field(default_factory=dict)


class Exchange(ABC):
    """A named exchange; the types override how bindings are indexed and matched.

    ``LOOKS_AT_HEADERS``: whether two messages of one routing key may go different ways.
    """

    TYPE: ClassVar[str]
    LOOKS_AT_HEADERS: ClassVar[bool] = False

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = arguments
        alternate = arguments.get("alternate-exchange")
        self.alternate = alternate if isinstance(alternate, str) else None
        self.bindings: dict[Binding, None] = {}
        """The bindings whose source this is, oldest first."""
        self.incoming: dict[Binding, None] = {}
        """The bindings of other exchanges that lead here."""
        self._by_end: dict[tuple[Destination, str], list[Binding]] = {}

    def find(self, destination: Destination, routing_key: str, arguments: Table) -> Binding | None:
        """Return the equal binding, if there is one: same destination, key and arguments (AMQP 0-9-1, 3.1.2)."""
        for binding in self._by_end.get((destination, routing_key), ()):
            if binding.arguments == arguments:
                return binding
        return None

    def add(self, binding: Binding) -> None:
        """Index a new binding.

        Raises:
            PreconditionFailed: The type cannot match by such arguments.
        """
        self._index(binding)
        self.bindings[binding] = None
        self._by_end.setdefault((binding.destination, binding.routing_key), []).append(binding)

    def remove(self, binding: Binding) -> None:
        """Forget a binding."""
        self._unindex(binding)
        del self.bindings[binding]
        end = (binding.destination, binding.routing_key)
        same_end = self._by_end[end]
        same_end.remove(binding)
        if not same_end:
            del self._by_end[end]

    @abstractmethod
    def destinations(self, routing_key: str, headers: Table) -> Iterator[Destination]:
        """Yield where a message goes; a destination may come more than once.

        ``headers`` are empty unless some type on the way looks at them.
        """

    @abstractmethod
    def _index(self, binding: Binding) -> None: ...

    @abstractmethod
    def _unindex(self, binding: Binding) -> None: ...


class DirectExchange(Exchange):
    """Matches equal routing keys (AMQP 0-9-1, 3.1.3.1)."""

    TYPE = "direct"

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._by_key: dict[str, dict[Binding, None]] = {}

    def destinations(self, routing_key: str, headers: Table) -> Iterator[Destination]:
        """Yield the destinations bound with exactly this key."""
        for binding in self._by_key.get(routing_key, ()):
            yield binding.destination

    def _index(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.routing_key, {})[binding] = None

    def _unindex(self, binding: Binding) -> None:
        same_key = self._by_key[binding.routing_key]
        del same_key[binding]
        if not same_key:
            del self._by_key[binding.routing_key]


class FanoutExchange(Exchange):
    """Matches every message (AMQP 0-9-1, 3.1.3.2)."""

    TYPE = "fanout"

    def destinations(self, routing_key: str, headers: Table) -> Iterator[Destination]:
        """Yield every destination."""
        for binding in self.bindings:
            yield binding.destination

    def _index(self, binding: Binding) -> None:
        """Nothing to do: all bindings match."""

    def _unindex(self, binding: Binding) -> None:
        """Nothing to do: all bindings match."""


class _TopicNode:
    """One word of the patterns that lead through it; ``bindings`` are those whose pattern ends here."""

    __slots__ = ("bindings", "children")

    def __init__(self) -> None:
        self.children: dict[str, _TopicNode] = {}
        self.bindings: dict[Binding, None] = {}


class TopicExchange(Exchange):
    """Matches patterns of words: ``*`` is one word, ``#`` any number of them (AMQP 0-9-1, 3.1.3.3).

    The patterns form a trie by words, so that the cost of a route follows the words of the key, not the number of
    bindings. Empty words count as words, as in RabbitMQ.
    """

    TYPE = "topic"

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._root = _TopicNode()

    def destinations(self, routing_key: str, headers: Table) -> Iterator[Destination]:
        """Yield the destinations whose pattern matches."""
        words = _words(routing_key)
        seen: set[tuple[int, int]] = set()
        waiting = [(self._root, 0)]
        while waiting:
            node, index = waiting.pop()
            # Two ways of spreading the words over several `#` meet again in the same place.
            if (id(node), index) in seen:
                continue
            seen.add((id(node), index))
            if index == len(words):
                for binding in node.bindings:
                    yield binding.destination
            else:
                if (child := node.children.get(words[index])) is not None:
                    waiting.append((child, index + 1))
                if (child := node.children.get("*")) is not None:
                    waiting.append((child, index + 1))
            if (child := node.children.get("#")) is not None:
                waiting.extend((child, following) for following in range(index, len(words) + 1))

    def _index(self, binding: Binding) -> None:
        node = self._root
        for word in _words(binding.routing_key):
            node = node.children.setdefault(word, _TopicNode())
        node.bindings[binding] = None

    def _unindex(self, binding: Binding) -> None:
        path: list[tuple[_TopicNode, str]] = []
        node = self._root
        for word in _words(binding.routing_key):
            path.append((node, word))
            node = node.children[word]
        del node.bindings[binding]
        for parent, word in reversed(path):
            child = parent.children[word]
            if child.bindings or child.children:
                break
            del parent.children[word]


def _words(routing_key: str) -> list[str]:
    # RabbitMQ: an empty key has no words, not one empty word.
    return routing_key.split(".") if routing_key else []


class HeadersExchange(Exchange):
    """Matches by message headers, not by routing key (AMQP 0-9-1, 3.1.3.4).

    A binding's arguments are the headers to look for; its ``x-match`` says how many must be there. Arguments whose names
    begin with ``x-`` count only in the modes ``...-with-x``. A void value asks only that the header is there; others must
    be equal, whatever their integer size (https://www.rabbitmq.com/docs/exchanges#headers).
    """

    TYPE = "headers"
    LOOKS_AT_HEADERS = True

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._rules: dict[Binding, tuple[bool, Table]] = {}
        """(whether all must match, what to look for)"""

    def destinations(self, routing_key: str, headers: Table) -> Iterator[Destination]:
        """Yield the destinations whose arguments match the headers."""
        for binding, (needs_all, wanted) in self._rules.items():
            matches = (name in headers and _matches(value, headers[name]) for name, value in wanted.items())
            if all(matches) if needs_all else any(matches):
                yield binding.destination

    def _index(self, binding: Binding) -> None:
        mode = binding.arguments.get("x-match", "all")
        if mode not in _MATCH_MODES:
            raise PreconditionFailed(
                f'Invalid x-match field value <<"{mode}">>; expected all, any, all-with-x, or any-with-x'
                if isinstance(mode, str)
                else f"Invalid x-match field type {field_type(mode)} (value {erlang_term(mode)}); expected longstr"
            )
        with_x = str(mode).endswith("-with-x")
        wanted = {
            name: value
            for name, value in binding.arguments.items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        }
        self._rules[binding] = (str(mode).startswith("all"), wanted)

    def _unindex(self, binding: Binding) -> None:
        del self._rules[binding]


def _matches(wanted: FieldValue, found: FieldValue) -> bool:
    # 1 is any integer's 1, but neither 1.0 nor true.
    return wanted is None or (type(wanted) is type(found) and wanted == found)


EXCHANGE_TYPES: Final[dict[str, type[Exchange]]] = {
    exchange.TYPE: exchange for exchange in (DirectExchange, FanoutExchange, TopicExchange, HeadersExchange)
}
"""By the name that exchange.declare uses."""
