"""Messages in: what one connection's consumers deliver becomes attempts.

Each queue has one to four consumers (``leveret.worker.prefetch``), all on the connection's one channel, all forgotten with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from leveret.amqp.properties import delivery_facts
from leveret.amqp.topology import Queue
from leveret.client.asynchronous import AsyncChannel, Delivery
from leveret.errors import AMQPError
from leveret.worker.attempt import Attempt

__all__ = ["Intake"]


class Intake:
    """The consumers of one connection."""

    def __init__(
        self,
        channel: AsyncChannel,
        *,
        generation: int,
        queues: Sequence[Queue],
        next_number: Callable[[], int],
        on_attempt: Callable[[Attempt], None],
    ) -> None:
        self._channel = channel
        self._generation = generation
        self._queues = queues
        self._next_number = next_number
        self._on_attempt = on_attempt
        self._tags: dict[str, list[str]] = {queue.name: [] for queue in queues}
        self._counts: list[int] = []
        self._change = asyncio.Lock()
        self._is_stopped = False

    async def start(self, counts: Sequence[int]) -> None:
        """Declare the queues and consume each with consumers of these prefetch counts.

        Raises:
            ReplyError: the broker refuses a declaration or a consumer.
            BrokerUnavailable: the connection was lost.

        """
        await self._channel.declare(self._queues)
        await self.set_counts(counts)

    async def set_counts(self, counts: Sequence[int]) -> None:
        """Add consumers, or cancel the last ones, until each queue has these; deliveries already here stay valid."""
        async with self._change:
            if self._is_stopped:
                return
            for queue, tags in self._tags.items():
                while len(tags) > len(counts):
                    await self._channel.cancel(tags.pop())
                for count in counts[len(tags) :]:
                    tags.append(await self._channel.consume(queue, partial(self._deliver, queue), prefetch_count=count))
            self._counts = list(counts)

    async def stop(self) -> None:
        """Cancel every consumer; what is delivered until the broker has heard of it still becomes attempts."""
        async with self._change:
            self._is_stopped = True
            tags = [tag for tags in self._tags.values() for tag in tags]
            for each in self._tags.values():
                each.clear()
            await asyncio.gather(*(self._channel.cancel(tag) for tag in tags))

    @property
    def counts(self) -> Sequence[int]:
        """The prefetch counts of each queue's consumers now."""
        return self._counts

    def _deliver(self, queue: str, delivery: Delivery) -> None:
        try:
            _, priority, _ = delivery_facts(delivery.header)
        except AMQPError:
            priority = 0  # the child that decodes it says what is wrong
        self._on_attempt(
            Attempt(
                self._next_number(),
                generation=self._generation,
                delivery_tag=delivery.delivery_tag,
                queue=queue,
                redelivered=delivery.redelivered,
                priority=priority,
                route=delivery.route,
                header=delivery.header,
                body=delivery.body,
            )
        )
