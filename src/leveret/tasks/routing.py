"""Where a task's message goes: from options and settings to an exchange, a routing key and the queue to declare.

A queue on a direct exchange is reached through the default exchange by its name, as Celery does it: whatever else is bound to
the exchange does not get the message. Topic, fanout and headers exchanges are reached by their own name.

A message that is to come later goes to a delay queue, which nobody consumes; from there the broker moves it on when it is due::

    producer ──▶ "" ──▶ tasks.delay.1500 ──(x-message-ttl: after 1,500 ms)──▶ "" ──▶ tasks ──▶ worker

All messages in one delay queue wait equally long, so the head is always the next one due. A delay queue is declared when it
is needed and goes when nobody has declared it for a while (x-expires), but not with a message in it: see ``DELAY_LEASE_S``.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from leveret.amqp.topology import DEFAULT_EXCHANGE, Queue
from leveret.errors import ConfigurationError

__all__ = ["DELAY_LEASE_S", "DELAY_S_MAX", "Route", "delay_queue", "queue_name", "route_to"]

DELAY_LEASE_S: Final = 60.0
"""How long after its last declaration a delay queue takes messages safely: what is published later may be lost with it.

RabbitMQ counts x-expires from the last declaration, consumer or basic.get; a publish does not count. So the queue lives for
the delay and this long, and whoever publishes declares it again in good time before.
"""

# RabbitMQ refuses an x-expires of 2**32 ms or more (rabbit_amqqueue:check_expires_arg).
DELAY_S_MAX: Final = 48 * 86_400.0
"""The longest delay of one hop: 48 days."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where to publish, and what has to exist for it."""

    exchange: str
    routing_key: str
    queue: Queue


def queue_name(task: str, *, asked: str | None, option: str | None, routes: Mapping[str, str], default: str) -> str:
    """Return the queue of a call: the one it asked for, else the task's own, else the first route that fits, else the default.

    ``routes`` maps task names or globs (``shop.*``) to queues; a name that is there in full goes before any glob.
    """
    if asked is not None:
        return asked
    if option is not None:
        return option
    if task in routes:
        return routes[task]
    for pattern, queue in routes.items():
        if fnmatch.fnmatchcase(task, pattern):
            return queue
    return default


def route_to(name: str, queues: Mapping[str, Queue], *, max_priority: int | None) -> Route:
    """Return the way to a queue; one that is not among the app's is made on the default exchange, with ``max_priority``."""
    queue = queues.get(name)
    if queue is None:
        return Route("", name, Queue(name, max_priority=max_priority))
    if queue.exchange.type == "direct":
        return Route(DEFAULT_EXCHANGE.name, name, queue)
    return Route(queue.exchange.name, queue.routing_key, queue)


def delay_queue(target_queue: str, delay_s: float) -> Queue:
    """Return the queue in which a message waits at least ``delay_s`` on its way to ``target_queue``.

    The delay is rounded up to two significant digits of milliseconds, so that there are at most 90 such queues per power of
    ten: a message is never early, and late by less than 10 % of its delay.

    Raises:
        ConfigurationError: a delay of zero or less, or beyond ``DELAY_S_MAX``.

    """
    if not 0 < delay_s <= DELAY_S_MAX:
        raise ConfigurationError(f"a task can be delayed by up to {DELAY_S_MAX / 86_400:.0f} days, not by {delay_s:g} s")
    delay_ms = _two_digits_up(math.ceil(round(delay_s * 1000, 3)))
    return Queue(
        f"{target_queue}.delay.{delay_ms}",
        queue_arguments={
            "x-message-ttl": delay_ms,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": target_queue,
            "x-expires": delay_ms + int(DELAY_LEASE_S * 1000),
        },
    )


def _two_digits_up(number: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step
