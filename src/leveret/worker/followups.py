"""The messages an attempt may leave behind: its retry, its copy for a later time, its copy where an operator finds it.

Each is published confirmed and mandatory through the default exchange, straight to a queue that was declared before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from leveret.amqp.topology import Queue
from leveret.client.asynchronous import AsyncChannel
from leveret.tasks.routing import DELAY_LEASE_S, DELAY_S_MAX, delay_queue
from leveret.worker.connection import BrokerConnection

__all__ = ["CONFIRM_TIMEOUT_S", "PARKING_SUFFIX", "FollowUps"]

PARKING_SUFFIX: Final = ".parked"
"""``celery.parked`` holds the messages of ``celery`` that no worker here could run, until somebody moves them back."""

CONFIRM_TIMEOUT_S: Final = 60.0
"""Longer than a producer's patience: a broker that is short of memory confirms nothing until it has some again, and a message
given up too early would come twice."""

_DECLARED_MAX: Final = 1000


class FollowUps:
    """Publishes them on the connection there is, waiting for one while there is none."""

    def __init__(self, connection: BrokerConnection, *, monotonic_s: Callable[[], float]) -> None:
        self._connection = connection
        self._monotonic_s = monotonic_s
        self._declared: dict[tuple[int, str], float] = {}

    async def send_later(self, queue: str, delay_s: float, header: bytes, body: bytes) -> None:
        """Have a message arrive in a queue after a delay.

        A delay longer than the longest delay queue's ends early; who receives the message finds it not due and sends it on.

        Raises:
            PublishError, BrokerUnavailable, ReplyError: the broker has not taken it.

        """
        if delay_s <= 0:
            await self._publish(queue, header, body)
            return
        waiting_room = delay_queue(queue, min(delay_s, DELAY_S_MAX))
        await self._declare(waiting_room)
        await self._publish(waiting_room.name, header, body)

    async def send_again(self, queue: str, header: bytes, body: bytes) -> None:
        """Have a message arrive in a queue now, at its end; raises as ``send_later``."""
        await self._publish(queue, header, body)

    async def park(self, queue: str, header: bytes, body: bytes) -> str:
        """Keep a message in the parking queue of its queue and return that one's name; raises as ``send_later``."""
        parking = Queue(queue + PARKING_SUFFIX)
        await self._declare(parking)
        await self._publish(parking.name, header, body)
        return parking.name

    async def _declare(self, queue: Queue) -> None:
        """Declare a queue once per connection, and again before a delay queue's lease runs out."""
        channel = await self._connection.channel()
        key = (self._connection.generation, queue.name)
        now_s = self._monotonic_s()
        if now_s - self._declared.get(key, -DELAY_LEASE_S) < DELAY_LEASE_S / 2:
            return
        await channel.declare([queue])
        if len(self._declared) >= _DECLARED_MAX:
            self._declared.clear()
        self._declared[key] = now_s

    async def _publish(self, queue: str, header: bytes, body: bytes) -> None:
        channel: AsyncChannel = await self._connection.channel()
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            await channel.publish("", queue, header, body, mandatory=True)
