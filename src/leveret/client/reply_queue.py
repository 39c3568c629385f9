"""The queue on which one process gets its replies, and the threads that wait for them.

As Celery's ``rpc`` result backend: the producer declares it and names it in ``reply_to``, workers publish to it through the
default exchange. It is durable and not exclusive, so that replies that come while the connection is down are still there
afterwards; the broker deletes it when nobody has consumed from it for ``REPLY_QUEUE_EXPIRES_MS``, and we do when we close.
"""

from __future__ import annotations

from typing import Final

from leveret.amqp.events import DeliverEvent
from leveret.amqp.methods import basic, queue
from leveret.amqp.properties import decode_header
from leveret.client.deadline import Deadline
from leveret.client.link import Link
from leveret.client.replies import Replies
from leveret.client.turns import Waiter
from leveret.errors import LeveretError

__all__ = ["REPLY_CHANNEL", "REPLY_QUEUE_EXPIRES_MS", "SET_UP_S", "ReplyQueue"]

REPLY_CHANNEL: Final = 2

REPLY_QUEUE_EXPIRES_MS: Final = 600_000
"""How long a reply queue outlives its process, or its process's connection."""


SET_UP_S: Final = 1.0
"""What declaring and consuming may take, however little time a caller who only looks has."""


class ReplyQueue:
    """The consumer of replies of one link. Every method is called under the link's lock."""

    def __init__(self, link: Link, name: str, replies: Replies) -> None:
        self._link = link
        self._name = name
        self._replies = replies
        self._consuming = False
        self._cancelled = False
        self._waiters: dict[str, list[Waiter]] = {}

    def consume(self, deadline: Deadline) -> None:
        """Declare the queue and consume from it, unless this link does; raises as ``Link.call``."""
        while not self._consuming:
            self._link.once("replies", lambda: self._consume(deadline), deadline)

    def wait(self, correlation_id: str, deadline: Deadline) -> bytes | None:
        """Return the next reply to an id, or None when none came in time.

        Raises:
            BrokerUnavailable: the connection was lost.
            ReplyError: the broker lets us have no reply queue.

        """
        self._link.notice()
        while (body := self._replies.take(correlation_id)) is None:
            if not self._consuming:
                self.consume(deadline.at_least(SET_UP_S))
                continue  # it may have come meanwhile
            waiter = Waiter()
            waiters = self._waiters.setdefault(correlation_id, [])
            waiters.append(waiter)
            try:
                in_time = self._link.wait(waiter, deadline)
            finally:
                waiters.remove(waiter)
                if not waiters:
                    self._waiters.pop(correlation_id, None)
            if waiter.error is not None:
                raise waiter.error
            if not in_time:
                return self._replies.take(correlation_id)
        return body

    def delete(self, deadline: Deadline) -> None:
        """Delete the queue, if this link has consumed from it; raises as ``Link.call``."""
        if self._consuming:
            self._consuming = False
            self._link.call(REPLY_CHANNEL, queue.Delete(self._name), deadline)

    def on_delivery(self, event: DeliverEvent) -> None:
        """Keep a reply, and wake who waits for it."""
        correlation_id = decode_header(event[6])[1].correlation_id
        if correlation_id is not None:
            self._replies.add(correlation_id, event[7])
            for waiter in self._waiters.get(correlation_id, ()):
                waiter.finish()

    def on_cancelled(self) -> None:
        """Learn that the broker ended the consumer (the queue was deleted) or its channel: who waits consumes again."""
        self._consuming = False
        self._cancelled = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.finish()

    def on_lost(self, error: LeveretError) -> None:
        """Learn that the connection is gone."""
        self._consuming = False
        for waiters in self._waiters.values():
            for waiter in waiters:
                failure = self._link.lost()
                failure.__cause__ = error
                waiter.finish(error=failure)

    def _consume(self, deadline: Deadline) -> None:
        self._link.open_channel(REPLY_CHANNEL, deadline)
        declare = queue.Declare(self._name, durable=True, arguments={"x-expires": REPLY_QUEUE_EXPIRES_MS})
        consume = basic.Consume(self._name, no_ack=True)
        self._cancelled = False
        self._link.call_all(REPLY_CHANNEL, [declare, consume], deadline)
        self._consuming = not self._cancelled  # other threads have read since the reply came
