"""What a client remembers of a channel until the broker has answered: unconfirmed messages and pending calls.

Both transports keep these books; nothing here touches a socket or waits. ``T`` is whatever the transport wants back when the
answer is there: a waiting thread, a future.

Publisher confirms (RabbitMQ's ``confirm.select``) number the messages of a channel from 1, in the order they were sent::

    add ── n ──┬── settle(n), or settle(m ≥ n, multiple) ──► taken, or refused, by the broker
               ├── take_returned ──► unroutable; its confirm follows and means nothing more
               ├── forget ──► nobody waits any longer; its confirm means nothing more
               └── clear ──► the channel is gone: nobody knows
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeAlias, TypeVar

from leveret.amqp.methods.base import Method
from leveret.amqp.properties import decode_header
from leveret.errors import AMQPError, RemoteProtocolError

__all__ = ["Calls", "Confirms", "Publication"]

T = TypeVar("T")

Publication: TypeAlias = tuple[T, str, str, bytes, bytes]
"""(owner, exchange, routing key, header, body) of a message that was sent."""


class Confirms(Generic[T]):
    """The messages of one channel that the broker has neither confirmed nor refused, by their number."""

    __slots__ = ("_lowest", "_next", "_outstanding")

    def __init__(self) -> None:
        self._next = 1
        self._lowest = 1
        self._outstanding: dict[int, Publication[T]] = {}

    def __len__(self) -> int:
        return len(self._outstanding)

    def add(self, publication: Publication[T]) -> int:
        """Give a message its number; the caller writes it before it adds another."""
        number = self._next
        self._next = number + 1
        self._outstanding[number] = publication
        return number

    def settle(self, delivery_tag: int, *, multiple: bool) -> list[Publication[T]]:
        """Take out what a basic.ack or basic.nack names, in the order it was sent; 0 and ``multiple`` name all.

        Raises:
            RemoteProtocolError: the tag is of a message that was never sent.

        """
        if not 0 <= delivery_tag < self._next:
            raise RemoteProtocolError(f"the broker confirmed message {delivery_tag} of {self._next - 1} sent on the channel")
        outstanding = self._outstanding
        if not multiple:
            publication = outstanding.pop(delivery_tag, None)
            return [] if publication is None else [publication]
        last = delivery_tag or self._next - 1
        numbers = range(self._lowest, last + 1)
        self._lowest = max(self._lowest, last + 1)
        return [outstanding.pop(number) for number in numbers if number in outstanding]

    def take_returned(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> Publication[T] | None:
        """Take out the message that basic.return hands back; None when nobody waits for it any longer.

        A return carries no number, only the message, whose header RabbitMQ 4 encodes anew; so of the messages with the same
        route and body the one with the same header is meant, or else that with the same ids, or else the first.
        """
        alike = [
            (number, publication)
            for number, publication in self._outstanding.items()
            if publication[4] == body and publication[2] == routing_key and publication[1] == exchange
        ]
        if not alike:
            return None
        found = next((number for number, publication in alike if publication[3] == header), None)
        if found is None and len(alike) > 1:
            ids = _ids(header)
            found = next((number for number, publication in alike if _ids(publication[3]) == ids), None)
        return self._outstanding.pop(alike[0][0] if found is None else found)

    def forget(self, number: int) -> None:
        """Drop a message that nobody waits for any longer."""
        self._outstanding.pop(number, None)

    def clear(self) -> list[Publication[T]]:
        """Take out all, in the order they were sent."""
        publications = list(self._outstanding.values())
        self._outstanding.clear()
        return publications


def _ids(header: bytes) -> tuple[str | None, str | None] | None:
    try:
        properties = decode_header(header)[1]
    except AMQPError:
        return None
    return properties.message_id, properties.correlation_id


class Calls(Generic[T]):
    """The synchronous methods of one channel that wait for their reply.

    Replies come in the order of the calls (4.2.2), with one exception: in RabbitMQ the queue's own process answers
    basic.consume, and the reply to a call made meanwhile may overtake it. So a reply belongs to the first call that has it.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: deque[tuple[Method, T]] = deque()

    def add(self, method: Method, owner: T) -> None:
        """Note a call that was sent."""
        self._pending.append((method, owner))

    def answer(self, reply: Method) -> T:
        """Take out the call that a reply answers.

        Raises:
            RemoteProtocolError: no call is pending that this answers.

        """
        for place, (method, owner) in enumerate(self._pending):
            if reply.NAME in method.REPLIES:
                del self._pending[place]
                return owner
        expected = self._pending[0][0].NAME if self._pending else "no call"
        raise RemoteProtocolError(f"the broker sent {reply.NAME} where the answer to {expected} was due")

    def clear(self) -> list[T]:
        """Take out all, in order."""
        owners = [owner for _, owner in self._pending]
        self._pending.clear()
        return owners
