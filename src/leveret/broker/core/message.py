"""A message as published, and its place in one queue."""

from __future__ import annotations

__all__ = ["Entry", "Message"]


class Message:
    """A published message; one object, however many queues it is in.

    ``route``, ``header`` and ``body`` are the bytes that the publisher sent and are relayed as they are: the
    exchange and routing key short strings, the payload of the content header frame, and the joined body.

    ``durable_refs`` counts its placements that are (or will be) on disk; ``id`` is its row there.
    """

    __slots__ = ("body", "durable_refs", "expiration_ms", "header", "id", "persistent", "priority", "route")

    def __init__(
        self, id_: int, route: bytes, header: bytes, body: bytes, persistent: bool, priority: int, expiration_ms: int | None
    ) -> None:
        self.id = id_
        self.route = route
        self.header = header
        self.body = body
        self.persistent = persistent
        self.priority = priority
        self.expiration_ms = expiration_ms
        self.durable_refs = 0

    @property
    def size_bytes(self) -> int:
        """Return what it weighs in memory and on a socket, nearly."""
        return len(self.header) + len(self.body) + len(self.route)


class Entry:
    """One message's place in one queue.

    ``position`` orders a queue and is never used twice in it, so that a requeued message finds its way back.
    ``batch`` is the journal batch that carries the placement to disk, 0 when it is kept in memory only.
    """

    __slots__ = ("batch", "expires_s", "message", "position", "redelivered", "removed")

    def __init__(
        self, message: Message, position: int, expires_s: float | None, batch: int = 0, redelivered: bool = False
    ) -> None:
        self.message = message
        self.position = position
        self.expires_s = expires_s
        self.batch = batch
        self.redelivered = redelivered
        self.removed = False
