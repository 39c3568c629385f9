"""The client behind ``.delay()``: blocking calls from any thread, no thread of its own, a connection made when needed.

Every call has a deadline and fails within it. A connection found dead before anything was written is replaced without a word,
and so is the parent's after a fork. What may have reached the broker is never sent a second time: the caller is told.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from leveret.amqp.topology import Queue
from leveret.amqp.uris import AMQPURL
from leveret.client.connector import Connector
from leveret.client.deadline import Deadline
from leveret.client.failures import advise
from leveret.client.publisher import Batch, Message
from leveret.client.recovery import backoff_delays
from leveret.client.reply_queue import SET_UP_S
from leveret.client.shared import SharedConnection
from leveret.clock import Clock, SystemClock
from leveret.errors import BrokerUnavailable, LeveretError, PreconditionFailed, PublishError
from leveret.ids import IdSource, SystemIdSource

__all__ = ["CLOSE_TIMEOUT_S", "WINDOW_BYTES_MAX", "WINDOW_COUNT_MAX", "BlockingClient"]

CLOSE_TIMEOUT_S: Final = 2.0

WINDOW_COUNT_MAX: Final = 1000
WINDOW_BYTES_MAX: Final = 1 << 20
"""What ``publish_many`` has in flight at most: messages, and bytes of their bodies (or one message that is larger)."""

_CHUNK_COUNT: Final = 100
_CHUNK_BYTES: Final = 64 << 10
_ATTEMPTS_MAX: Final = 3

T = TypeVar("T")


class BlockingClient:
    """A producer's side of a broker; see the module. ``resolve`` gives the broker's URLs whenever a connection is made."""

    def __init__(
        self,
        resolve: Callable[[], Sequence[AMQPURL]],
        *,
        connect_timeout_s: float = 4.0,
        client_name: str = "leveret",
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._client_name = client_name
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIdSource()
        # By process id: after a fork the child must not touch what its parent uses.
        self._connectors: dict[int, Connector] = {}

    def publish(
        self, exchange: str, routing_key: str, header: bytes, body: bytes, *, mandatory: bool = True, timeout_s: float
    ) -> None:
        """Publish one message and return once the broker has taken it; ``header`` is the payload of its content header.

        Raises:
            Unroutable: no queue is bound for it, and it is mandatory.
            PublishNacked: the broker refused it.
            PublishBlocked: the broker takes no messages and did not change that in time.
            PublishUnconfirmed: no answer came in time, or the connection was lost: it may or may not have been taken.
            BrokerUnavailable: no broker could be reached in time; nothing was sent.
            ReplyError: the broker closed the channel or the connection over it: ``NotFound`` for an unknown exchange.

        """
        message = (exchange, routing_key, header, body)
        deadline = Deadline(timeout_s, self._clock)
        self._on_connection(lambda one: one.publish(message, mandatory=mandatory, deadline=deadline), deadline)

    def publish_many(self, messages: Iterable[Message], *, timeout_s: float) -> int:
        """Publish messages (exchange, routing key, header, body), all mandatory, and return how many were confirmed: all.

        They are pipelined: up to ``WINDOW_COUNT_MAX`` are in flight. The time is how long the broker may take without any
        progress. The first failure ends it, after what was in flight has been settled; the error says how many messages were
        confirmed, and ``PublishError.confirmed`` has the number. Raises as ``publish``.
        """
        batch = Batch()
        try:
            for chunk in _chunks(messages):
                self._send(batch, chunk, timeout_s)
                if batch.error is not None:
                    break
            self._await_room(batch, 0, 0, timeout_s)
        except LeveretError as error:
            raise _of_batch(batch.error or error, batch.confirmed) from error
        if batch.error is not None:
            raise _of_batch(batch.error, batch.confirmed) from batch.error.__cause__
        return batch.confirmed

    def declare(self, queues: Iterable[Queue], timeout_s: float, *, again: bool = False) -> None:
        """Declare queues with their exchanges and bindings, once per connection, or ``again``: queues with x-expires need it.

        Raises:
            ReplyError: the broker refused one: ``PreconditionFailed`` if it exists with other properties.
            BrokerUnavailable: no broker could be reached, or none answered, in time.

        """
        wanted = list(queues)
        deadline = Deadline(timeout_s, self._clock)
        try:
            self._on_connection(lambda one: one.declare(wanted, deadline, again=again), deadline)
        except PreconditionFailed as error:
            advise(error)
            raise

    def reply_queue(self) -> str:
        """Return the name of the queue on which this process gets replies, after making sure of it; raises as ``declare``."""
        deadline = Deadline(self._connect_timeout_s, self._clock)
        self._on_connection(lambda one: one.consume_replies(deadline), deadline)
        return self._connector().reply_queue

    def wait_reply(self, correlation_id: str, timeout_s: float) -> bytes | None:
        """Return the body of the next reply to an id, or None when none came in time; each is given out once.

        Reconnects as often as it must. With no time at all it returns what is here, but may take a second to connect.

        Raises:
            BrokerUnavailable: there was no connection to a broker when the time was over.

        """
        deadline = Deadline(timeout_s, self._clock)
        connector = self._connector()
        delays_s = backoff_delays(random.random)
        while True:
            try:
                return connector.get(deadline.at_least(SET_UP_S)).wait_reply(correlation_id, deadline)
            except BrokerUnavailable:
                remaining_s = deadline.remaining_s()
                if remaining_s <= 0.0:
                    raise
                connector.pause(min(next(delays_s), remaining_s))

    def forget_reply(self, correlation_id: str) -> None:
        """Drop the replies to an id that came and were not asked for."""
        self._connector().replies.forget(correlation_id)

    def close(self) -> None:
        """Close the connection, if there is one; the client cannot be used afterwards. Safe to call twice."""
        self._connector().close(Deadline(CLOSE_TIMEOUT_S, self._clock))

    def _send(self, batch: Batch, chunk: Sequence[Message], timeout_s: float) -> None:
        """Send a part of a batch as soon as the window has room for it."""
        size_bytes = sum(len(message[3]) for message in chunk)
        self._await_room(batch, WINDOW_COUNT_MAX - len(chunk), max(WINDOW_BYTES_MAX - size_bytes, 0), timeout_s)
        if batch.error is None:
            deadline = Deadline(timeout_s, self._clock)
            self._on_connection(lambda one: one.send(batch, chunk, deadline), deadline)

    def _await_room(self, batch: Batch, count: int, size_bytes: int, timeout_s: float) -> None:
        if batch.in_flight:
            deadline = Deadline(timeout_s, self._clock)
            self._on_connection(
                lambda one: one.await_room(batch, count=count, size_bytes=size_bytes, timeout_s=timeout_s), deadline
            )

    def _connector(self) -> Connector:
        """Return this process's connector, letting go of those of the processes it was forked from."""
        process_id = os.getpid()
        connector = self._connectors.get(process_id)
        if connector is None:
            for other in [number for number in self._connectors if number != process_id]:
                self._connectors.pop(other).abandon()
            made = Connector(
                self._resolve,
                connect_timeout_s=self._connect_timeout_s,
                client_name=self._client_name,
                reply_queue=f"leveret.replies.{self._ids.name_suffix()}",
                clock=self._clock,
            )
            connector = self._connectors.setdefault(process_id, made)  # one, even if two threads come at once
        return connector

    def _on_connection(self, action: Callable[[SharedConnection], T], deadline: Deadline) -> T:
        """Do something on the connection, and again on a new one where it was lost before it could have any effect."""
        connector = self._connector()
        attempts_left = _ATTEMPTS_MAX
        while True:
            connection = connector.get(deadline)
            attempts_left -= 1
            try:
                return action(connection)
            except BrokerUnavailable:
                if connection.is_open or not attempts_left or deadline.remaining_s() <= 0.0:
                    raise


def _chunks(messages: Iterable[Message]) -> Iterator[Sequence[Message]]:
    """Cut messages into parts to be written at once."""
    chunk: list[Message] = []
    size_bytes = 0
    for message in messages:
        chunk.append(message)
        size_bytes += len(message[3])
        if len(chunk) == _CHUNK_COUNT or size_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


def _of_batch(error: LeveretError, confirmed: int) -> LeveretError:
    """Return the error of a whole batch: it says how much of it was confirmed."""
    text = f"{confirmed} messages of the batch were confirmed"
    if not isinstance(error, PublishError | BrokerUnavailable):
        error.add_note(text)  # a reply code: its text is the broker's
        return error
    failure = type(error)(f"{error}; {text}")
    if isinstance(failure, PublishError):
        failure.confirmed = confirmed
    return failure
