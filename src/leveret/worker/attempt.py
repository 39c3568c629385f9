"""One delivery on its way through the worker, from the broker's hand to its settlement.

::

    received ──▶ buffered ──▶ handed to a child ──▶ running ──▶ reported ──▶ settled
                    ▲                │ recalled, or its child died before it started
                    └────────────────┘
"""

from __future__ import annotations

__all__ = ["Attempt"]


class Attempt:
    """One delivery of one message; ``number`` is the worker's own count of deliveries and is its order of arrival."""

    __slots__ = (
        "body",
        "delivery_tag",
        "generation",
        "header",
        "is_settled",
        "number",
        "priority",
        "queue",
        "redelivered",
        "route",
    )

    def __init__(
        self,
        number: int,
        *,
        generation: int,
        delivery_tag: int,
        queue: str,
        redelivered: bool,
        priority: int,
        route: bytes,
        header: bytes,
        body: bytes,
    ) -> None:
        self.number = number
        self.generation = generation
        """Of the connection it came on; a delivery tag means nothing on another."""
        self.delivery_tag = delivery_tag
        self.queue = queue
        self.redelivered = redelivered
        self.priority = priority
        self.route = route
        """The raw exchange and routing-key short strings."""
        self.header = header
        self.body = body
        self.is_settled = False
        """Acknowledged already, because its task is acknowledged early."""
