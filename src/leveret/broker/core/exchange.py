"""The exchange types: where a message goes, given its routing key.

A binding leads to a queue or to another exchange; both are ``Destination``s. Which bindings match is all that differs
between the types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from leveret.amqp.tables import Table

if TYPE_CHECKING:
    from leveret.broker.core.queue import Queue

__all__ = [
    "EXCHANGE_TYPES",
    "Binding",
    "Destination",
    "DirectExchange",
    "Exchange",
    "FanoutExchange",
    "TopicExchange",
]

Destination: TypeAlias = "Queue | Exchange"


@dataclass(eq=False, slots=True)
class Binding:
    """A rule that leads from an exchange to a queue or to another exchange."""

    source: Exchange
    destination: Destination
    routing_key: str
    arguments: Table = field(default_factory=dict)


class Exchange(ABC):
    """A named exchange; the types override how bindings are indexed and matched."""

    TYPE: str

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = arguments
        alternate = arguments.get("alternate-exchange")
        self.alternate = alternate if isinstance(alternate, str) else None
        self.bindings: list[Binding] = []
        """The bindings whose source this is."""
        self.incoming: list[Binding] = []
        """The bindings of other exchanges that lead here."""

    def find(self, destination: Destination, routing_key: str, arguments: Table) -> Binding | None:
        """Return the equal binding, if there is one: same destination, key and arguments (AMQP 0-9-1, 3.1.2)."""
        for binding in self._candidates(routing_key):
            if binding.destination is destination and binding.routing_key == routing_key and binding.arguments == arguments:
                return binding
        return None

    def add(self, binding: Binding) -> None:
        """Index a new binding."""
        self.bindings.append(binding)
        self._index(binding)

    def remove(self, binding: Binding) -> None:
        """Forget a binding."""
        self.bindings.remove(binding)
        self._unindex(binding)

    @abstractmethod
    def destinations(self, routing_key: str) -> Iterator[Destination]:
        """Yield where a message of this routing key goes; a destination may come more than once."""

    @abstractmethod
    def _candidates(self, routing_key: str) -> list[Binding]:
        """Return at least all bindings made with this very key."""

    @abstractmethod
    def _index(self, binding: Binding) -> None: ...

    @abstractmethod
    def _unindex(self, binding: Binding) -> None: ...


class DirectExchange(Exchange):
    """Matches equal routing keys (AMQP 0-9-1, 3.1.3.1)."""

    TYPE = "direct"

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._by_key: dict[str, list[Binding]] = {}

    def destinations(self, routing_key: str) -> Iterator[Destination]:
        """Yield the destinations bound with exactly this key."""
        for binding in self._by_key.get(routing_key, ()):
            yield binding.destination

    def _candidates(self, routing_key: str) -> list[Binding]:
        return self._by_key.get(routing_key, [])

    def _index(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.routing_key, []).append(binding)

    def _unindex(self, binding: Binding) -> None:
        same_key = self._by_key[binding.routing_key]
        same_key.remove(binding)
        if not same_key:
            del self._by_key[binding.routing_key]


class FanoutExchange(Exchange):
    """Matches every message (AMQP 0-9-1, 3.1.3.2)."""

    TYPE = "fanout"

    def destinations(self, routing_key: str) -> Iterator[Destination]:
        """Yield every destination."""
        for binding in self.bindings:
            yield binding.destination

    def _candidates(self, routing_key: str) -> list[Binding]:
        return self.bindings

    def _index(self, binding: Binding) -> None:
        """Nothing to do: all bindings match."""

    def _unindex(self, binding: Binding) -> None:
        """Nothing to do: all bindings match."""


class _TopicNode:
    """One word of the patterns that lead through it; ``bindings`` are those whose pattern ends here."""

    __slots__ = ("bindings", "children")

    def __init__(self) -> None:
        self.children: dict[str, _TopicNode] = {}
        self.bindings: list[Binding] = []


class TopicExchange(Exchange):
    """Matches patterns of words: ``*`` is one word, ``#`` any number of them (AMQP 0-9-1, 3.1.3.3).

    The patterns form a trie by words, so that the cost of a route follows the words of the key, not the number of
    bindings. Empty words count as words, as in RabbitMQ.
    """

    TYPE = "topic"

    def __init__(self, name: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Table) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        self._root = _TopicNode()

    def destinations(self, routing_key: str) -> Iterator[Destination]:
        """Yield the destinations whose pattern matches."""
        words = routing_key.split(".") if routing_key else []
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

    def _candidates(self, routing_key: str) -> list[Binding]:
        node: _TopicNode | None = self._root
        for word in _pattern(routing_key):
            node = node.children.get(word) if node is not None else None
        return node.bindings if node is not None else []

    def _index(self, binding: Binding) -> None:
        node = self._root
        for word in _pattern(binding.routing_key):
            node = node.children.setdefault(word, _TopicNode())
        node.bindings.append(binding)

    def _unindex(self, binding: Binding) -> None:
        path: list[tuple[_TopicNode, str]] = []
        node = self._root
        for word in _pattern(binding.routing_key):
            path.append((node, word))
            node = node.children[word]
        node.bindings.remove(binding)
        for parent, word in reversed(path):
            child = parent.children[word]
            if child.bindings or child.children:
                break
            del parent.children[word]


def _pattern(routing_key: str) -> list[str]:
    return routing_key.split(".") if routing_key else []


EXCHANGE_TYPES: Final[dict[str, type[Exchange]]] = {
    exchange.TYPE: exchange for exchange in (DirectExchange, FanoutExchange, TopicExchange)
}
"""By the name that exchange.declare uses."""
