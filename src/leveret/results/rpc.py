"""Results over AMQP: workers publish them to the caller's reply queue, as Celery's rpc backend does; nothing is kept anywhere.

Only the process that made a call can have its result, and has it once: what ``watch`` or ``latest`` returns is theirs to keep.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from leveret.client.blocking import BlockingClient
from leveret.clock import Clock, SystemClock
from leveret.errors import BrokerUnavailable
from leveret.results.meta import ResultMeta, decode_meta

__all__ = ["ReplyReader", "ReplyWatch"]

_TURN_S: Final = 0.05
"""How long one of several results is waited for before the others are looked at."""
_ALONE_S: Final = 60.0
"""How long a single one is waited for in one turn, where the caller has no limit."""


class ReplyReader:
    """The producer's side; the client belongs to whoever made it."""

    def __init__(self, client: BlockingClient, *, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()

    def watch(self, task_ids: Collection[str]) -> ReplyWatch:
        """Begin to wait for these."""
        return ReplyWatch(self._client, task_ids, self._clock)

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return the last that has come of a task and was not returned yet; None when nothing has."""
        latest: ResultMeta | None = None
        while (body := self._client.wait_reply(task_id, 0.0)) is not None:
            latest = decode_meta(body)
        return latest

    def close(self) -> None:
        """Do nothing: the client is its owner's to close."""


class ReplyWatch:
    """A wait for some results; the states before the last are passed over."""

    def __init__(self, client: BlockingClient, task_ids: Collection[str], clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._waiting = dict.fromkeys(task_ids)

    def next(self, timeout_s: float | None) -> list[ResultMeta]:
        """Return the results that have come since the last call, waiting for the first; empty: the time is over, or none is left.

        Raises:
            BrokerUnavailable: there was no connection to a broker when the time was over.

        """
        deadline_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        while self._waiting:
            remaining_s = None if deadline_s is None else max(0.0, deadline_s - self._clock.monotonic_s())
            try:
                found = self._look(remaining_s)
            except BrokerUnavailable:
                if remaining_s == 0.0:
                    raise
                time.sleep(_TURN_S)  # the client has waited as well; this keeps a fast refusal from becoming a busy loop
                continue
            if found or remaining_s == 0.0:
                return found
        return []

    def _look(self, remaining_s: float | None) -> list[ResultMeta]:
        """Return what is there, or else what comes in one turn."""
        found = [meta for task_id in list(self._waiting) if (meta := self._final(task_id, 0.0)) is not None]
        if found or remaining_s == 0.0:
            return found
        turn_s = _TURN_S if remaining_s is None else min(_TURN_S, remaining_s)
        if len(self._waiting) == 1:
            turn_s = _ALONE_S if remaining_s is None else remaining_s
        meta = self._final(next(iter(self._waiting)), turn_s)
        return [] if meta is None else [meta]

    def _final(self, task_id: str, timeout_s: float) -> ResultMeta | None:
        """Return a task's final result if it comes in time; one of a state before that only ends this turn."""
        body = self._client.wait_reply(task_id, timeout_s)
        meta = None if body is None else decode_meta(body)
        if meta is None or not meta.is_final:
            return None
        del self._waiting[task_id]
        return meta
