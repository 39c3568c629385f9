"""A connection with all that a producer needs on it: publishing, declarations, replies; for any number of threads.

Channels are opened when first needed, and again after the broker has closed one, which ends nothing else::

    1 publishing, confirmed      2 replies, consumed without acknowledgement      3 declarations
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from leveret.amqp.connection import ACK, DELIVER, METHOD, Event
from leveret.amqp.methods import basic, connection
from leveret.amqp.topology import Queue
from leveret.client.deadline import Deadline
from leveret.client.declarer import Declarer
from leveret.client.link import Link
from leveret.client.publisher import PUBLISH_CHANNEL, Batch, Message, Publisher, framed
from leveret.client.replies import Replies
from leveret.client.reply_queue import REPLY_CHANNEL, ReplyQueue
from leveret.errors import LeveretError, ReplyError

__all__ = ["SharedConnection"]


class SharedConnection:
    """One link, its publisher, its declarations and its reply queue; every method may be called by any thread."""

    def __init__(self, link: Link, *, reply_queue: str, replies: Replies) -> None:
        self._link = link
        self._declarer = Declarer(link)
        self._publisher = Publisher(link, self._declarer)
        self._reply_queue = ReplyQueue(link, reply_queue, replies)
        link.listen(self)

    @property
    def is_open(self) -> bool:
        """Tell whether it was usable when last looked at."""
        return self._link.is_open

    def publish(self, message: Message, *, mandatory: bool, deadline: Deadline) -> None:
        """Publish one message; raises as ``Publisher.publish``."""
        frames = framed([message], mandatory=mandatory, frame_max=self._link.frame_max)
        with self._link.lock:
            self._publisher.publish(message, frames, deadline)

    def send(self, batch: Batch, messages: Sequence[Message], deadline: Deadline) -> None:
        """Send messages of a batch; raises as ``Publisher.send``."""
        frames = framed(messages, mandatory=True, frame_max=self._link.frame_max)
        with self._link.lock:
            self._publisher.send(batch, messages, frames, deadline)

    def await_room(self, batch: Batch, *, count: int, size_bytes: int, timeout_s: float) -> None:
        """Wait until no more of a batch than this is in flight; raises as ``Publisher.await_room``."""
        with self._link.lock:
            self._publisher.await_room(batch, count=count, size_bytes=size_bytes, timeout_s=timeout_s)

    def declare(self, queues: Sequence[Queue], deadline: Deadline, *, again: bool = False) -> None:
        """Declare queues once; raises as ``Link.call``."""
        with self._link.lock:
            self._declarer.declare(queues, deadline, again=again)

    def consume_replies(self, deadline: Deadline) -> None:
        """Have the reply queue and consume from it; raises as ``Link.call``."""
        with self._link.lock:
            self._reply_queue.consume(deadline)

    def wait_reply(self, correlation_id: str, deadline: Deadline) -> bytes | None:
        """Return the next reply to an id; raises as ``ReplyQueue.wait``."""
        with self._link.lock:
            return self._reply_queue.wait(correlation_id, deadline)

    def close(self, deadline: Deadline) -> None:
        """Delete the reply queue and end the connection, as far as the time allows; never raises."""
        with self._link.lock:
            with contextlib.suppress(LeveretError):  # the queue expires by itself; the connection must be closed
                self._reply_queue.delete(deadline)
            self._link.close(deadline)

    def abandon(self) -> None:
        """Let go of a connection that belongs to the parent process."""
        self._link.abandon()

    # ------------------------------------------------------------------------------------------ from the link

    def on_event(self, event: Event) -> None:
        """Hand what came unasked to whom it concerns."""
        if event[0] == ACK:
            self._publisher.on_confirm(event)
        elif event[0] == DELIVER:
            self._reply_queue.on_delivery(event)
        elif event[0] == METHOD:
            match event[2]:
                case basic.Return() as method:
                    self._publisher.on_return(method, event[3] or b"", event[4] or b"")
                case basic.Cancel():
                    self._reply_queue.on_cancelled()
                case connection.Blocked(reason=reason):
                    self._publisher.on_blocked(reason)
                case connection.Unblocked():
                    self._publisher.on_blocked(None)
                case _:
                    pass

    def on_channel_closed(self, number: int, error: ReplyError) -> None:
        """Tell whose channel it was."""
        if number == PUBLISH_CHANNEL:
            self._publisher.on_channel_closed(error)
        elif number == REPLY_CHANNEL:
            self._reply_queue.on_cancelled()

    def on_lost(self, error: LeveretError) -> None:
        """Tell everybody that the connection is gone."""
        self._publisher.on_lost(error)
        self._reply_queue.on_lost(error)
