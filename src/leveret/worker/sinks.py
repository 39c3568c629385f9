"""Where results go: to a store through one thread that commits in groups, or back to the producer as messages."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from leveret.amqp.properties import BasicProperties, encode_header
from leveret.app.executed import ExecutedTask
from leveret.client.asynchronous import AsyncChannel
from leveret.errors import EncodingError, LeveretError, ReplyError
from leveret.results.base import ResultWriter
from leveret.results.meta import encode_failure
from leveret.tasks.states import State
from leveret.worker.followups import CONFIRM_TIMEOUT_S

__all__ = ["ReplySink", "ResultSink", "StoreSink"]

logger = logging.getLogger("leveret.worker")

# rabbit_channel (RabbitMQ 3.8 and later) and, for what is beyond the reader's own limit, rabbit_command_assembler.
_SIZE_REFUSED: Final = re.compile(r"size \d+ (?:is larger than configured max size|exceeds maximum allowed size) (\d+)")


class ResultSink(Protocol):
    """Takes the results of attempts."""

    async def put(self, tasks: Sequence[ExecutedTask]) -> None:
        """Store the results of these; when it returns they are safe."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


class StoreSink:
    """Writes to a result store: what comes while one group is being committed goes into the next."""

    def __init__(self, writer: ResultWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leveret-results")
        self._waiting: list[bytes] = []
        self._next: asyncio.Future[None] | None = None
        self._committing: asyncio.Task[None] | None = None

    async def put(self, tasks: Sequence[ExecutedTask]) -> None:
        """Add to the next group and wait until it is committed."""
        if self._next is None:
            self._next = self._loop.create_future()
        self._waiting += [task.meta for task in tasks if task.meta is not None]
        group = self._next
        if self._committing is None:
            self._committing = self._loop.create_task(self._commit())
        await asyncio.shield(group)

    async def close(self) -> None:
        """Commit what waits and close the store."""
        if self._committing is not None:
            await self._committing
        await self._loop.run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown()

    async def _commit(self) -> None:
        while self._next is not None:
            group, metas = self._next, self._waiting
            self._next, self._waiting = None, []
            try:
                await self._loop.run_in_executor(self._thread, self._writer.store, metas)
            except Exception as error:  # whatever a store raises belongs to those who wait for the group
                group.set_exception(error)
            else:
                group.set_result(None)
        self._committing = None


class ReplySink:
    """Publishes results to the queues that producers named in ``reply_to``, as Celery's rpc backend does.

    Transient, not mandatory: a producer that has gone needs no result. Confirmed all the same, so that a result is not
    forgotten when the connection breaks before the broker has it.

    A result that is too large for the broker costs the connection, once: the refusal says how large a message may be, and
    when the task has run again its producer is sent a failure that says so.
    """

    def __init__(self, channel: Callable[[], Awaitable[AsyncChannel]], *, wall_s: Callable[[], float]) -> None:
        """Take where to get the open channel, once there is one, and the time."""
        self._channel = channel
        self._wall_s = wall_s
        self._size_max: int | None = None
        """The largest message the broker takes, once that is known."""

    async def put(self, tasks: Sequence[ExecutedTask]) -> None:
        """Publish, and wait for the confirms."""
        channel = await self._channel()
        confirms = [
            channel.publish("", task.reply_to, _reply_header(task, meta), meta)
            for task in tasks
            if task.reply_to and (meta := self._fitting(task)) is not None
        ]
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await asyncio.gather(*confirms)
        except LeveretError as error:
            self._size_max = _size_allowed(error) or self._size_max
            raise

    async def close(self) -> None:
        """Do nothing: the channel is the connection's."""

    def _fitting(self, task: ExecutedTask) -> bytes | None:
        meta, size_max = task.meta, self._size_max
        if meta is None or size_max is None or len(meta) <= size_max:
            return meta
        text = (
            f"the result of {task.task_name} has {len(meta):,} bytes as JSON, and the broker takes messages of {size_max:,}; "
            "keep it in a file or a database and return where it is, or raise the broker's limit (RabbitMQ: max_message_size)"
        )
        logger.error("task %s[%s] has run, but %s", task.task_name, task.task_id, text)
        return encode_failure(task.task_id, State.FAILURE, EncodingError(text), now_s=self._wall_s())


def _size_allowed(error: BaseException | None) -> int | None:
    """Return the size that a broker names when it refuses a message for its size; None where it does not say or refuse that.

    Of the messages that were under way, one has the refusal as its error and the others have it as the cause.
    """
    while error is not None:
        if isinstance(error, ReplyError) and (found := _SIZE_REFUSED.search(error.reply_text)):
            return int(found[1])
        error = error.__cause__
    return None


def _reply_header(task: ExecutedTask, meta: bytes) -> bytes:
    return encode_header(
        len(meta),
        BasicProperties(
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=1,
            priority=0,
            correlation_id=task.correlation_id,
        ),
    )
