"""A consumer: the standing order of a channel for a queue's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leveret.broker.core.channel import Channel
    from leveret.broker.core.queue import Queue

__all__ = ["Consumer"]


class Consumer:
    """One basic.consume; its prefetch limit is the one its channel had then (0: no limit).

    ``priority``: those of lower priority get messages only while all above them are full (``x-priority``).

    ``tag_field`` is the tag as a short string on the wire, made once for all its deliveries.
    """

    __slots__ = (
        "channel",
        "exclusive",
        "in_line",
        "is_cancelled",
        "no_ack",
        "prefetch_count",
        "priority",
        "queue",
        "tag",
        "tag_field",
        "unacked_count",
    )

    def __init__(
        self, tag: str, channel: Channel, queue: Queue, *, no_ack: bool, exclusive: bool, prefetch_count: int, priority: int
    ) -> None:
        encoded = tag.encode()
        self.tag = tag
        self.tag_field = bytes((len(encoded),)) + encoded
        self.channel = channel
        self.queue = queue
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch_count = prefetch_count
        self.priority = priority
        self.unacked_count = 0
        self.in_line = False
        self.is_cancelled = False

    @property
    def is_full(self) -> bool:
        """Tell whether it may take nothing now: a prefetch limit is reached, or its connection does not drain.

        The limit of each consumer and the limit shared by its channel hold together, each on its own
        (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        channel = self.channel
        if channel.session.is_congested:
            return True
        if self.no_ack:
            return False
        if self.prefetch_count and self.unacked_count >= self.prefetch_count:
            return True
        return bool(channel.prefetch_shared) and channel.consumer_unacked_count >= channel.prefetch_shared
