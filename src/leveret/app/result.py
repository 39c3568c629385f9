"""The handle of a call: wait for what it comes to, or ask how it stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar, cast

from leveret.clock import Clock, SystemClock
from leveret.errors import ResultTimeout, TaskError
from leveret.results.base import ResultReader
from leveret.results.meta import ResultMeta, rebuild_exception
from leveret.tasks.states import State

__all__ = ["Result", "ResultSource", "as_completed"]

R_co = TypeVar("R_co", covariant=True)


class ResultSource(Protocol):
    """Where results come from: an app."""

    def result_reader(self) -> ResultReader:
        """Return the reader of this process, opened when it is first needed."""
        ...


class Result(Generic[R_co]):
    """The result of one call, which may not be there yet. Once it is, it is kept here."""

    __slots__ = ("__weakref__", "_convert", "_is_ignored", "_lock", "_meta", "_source", "id", "task")

    def __init__(
        self,
        task_id: str,
        source: ResultSource,
        *,
        task: str = "a task",
        convert: Callable[[object], object] | None = None,
        is_ignored: bool = False,
    ) -> None:
        """Name the call; ``convert`` turns the JSON value of a success into the task's return type."""
        self.id = task_id
        self.task = task
        self._source = source
        self._convert = convert
        self._is_ignored = is_ignored
        self._lock = threading.Lock()
        self._meta: ResultMeta | None = None

    def __repr__(self) -> str:
        return f"<Result of {self.task}, id {self.id}>"

    def get(self, timeout: float | None = None) -> R_co:
        """Return what the task returned, waiting for it if need be.

        Raises:
            ResultTimeout: it is not there after ``timeout`` seconds; None waits without end.
            TaskError: the call was sent with ``ignore_result``: there will never be one.
            Exception: whatever the task raised, or ``TaskFailed`` where its class is not known here. The worker's traceback
                is among the notes.

        """
        self.check_wanted()
        if not self._is_settled:
            for meta in self._source.result_reader().watch([self.id]).next(timeout):
                self.settle(meta)
        if self._meta is None or not self._meta.is_final:
            state = self.state
            hint = ": no worker has reported on it; does one run that takes from its queue?" if state == State.PENDING else ""
            raise ResultTimeout(f"no result of {self.task}, id {self.id}, within {timeout:g} s; it is {state}{hint}")
        if self._meta.state is not State.SUCCESS:
            raise rebuild_exception(self._meta)
        value = self._meta.result
        return cast("R_co", value if self._convert is None else self._convert(value))

    @property
    def state(self) -> str:
        """What is known of the task: SUCCESS, FAILURE, RETRY, REVOKED ...; PENDING when nothing is."""
        meta = self._look()
        return State.PENDING.value if meta is None else meta.state.value

    @property
    def traceback(self) -> str | None:
        """The worker's traceback of a task that failed or is to be retried."""
        meta = self._look()
        return None if meta is None else meta.traceback

    def ready(self) -> bool:
        """Tell whether the result is there, whatever it is."""
        meta = self._look()
        return meta is not None and meta.is_final

    def successful(self) -> bool:
        """Tell whether the task returned."""
        return self.state == State.SUCCESS

    def check_wanted(self) -> None:
        """Raise ``TaskError`` if the call was sent with ``ignore_result``, rather than have somebody wait for nothing."""
        if self._is_ignored:
            raise TaskError(f"{self.task}, id {self.id}, was sent with ignore_result: it has no result to wait for")

    def settle(self, meta: ResultMeta) -> None:
        """Keep what is known of the task; nothing comes after the final result."""
        with self._lock:
            if self._meta is None or not self._meta.is_final:
                self._meta = meta

    def _look(self) -> ResultMeta | None:
        if not self._is_settled:
            meta = self._source.result_reader().latest(self.id)
            if meta is not None:
                self.settle(meta)
        return self._meta

    @property
    def _is_settled(self) -> bool:
        return self._meta is not None and self._meta.is_final

    @property
    def source(self) -> ResultSource:
        """Where it comes from."""
        return self._source


def as_completed(
    results: Iterable[Result[R_co]], timeout: float | None = None, *, clock: Clock | None = None
) -> Iterator[Result[R_co]]:
    """Yield results of one app as they come in, each once; a failed one too, whose ``get`` then raises.

    Raises:
        ResultTimeout: some are not there ``timeout`` seconds after the first was asked for; None waits without end.

    """
    clock = clock or SystemClock()
    waiting = {result.id: result for result in results}
    for result in waiting.values():
        result.check_wanted()
    if not waiting:
        return
    sources = {id(result.source): result.source for result in waiting.values()}
    if len(sources) != 1:
        raise ValueError("as_completed waits for results of one app at a time")
    watch = next(iter(sources.values())).result_reader().watch(list(waiting))
    deadline_s = None if timeout is None else clock.monotonic_s() + timeout
    total = len(waiting)
    while waiting:
        metas = watch.next(None if deadline_s is None else max(0.0, deadline_s - clock.monotonic_s()))
        if not metas:
            raise ResultTimeout(f"{len(waiting)} of {total} results are not there after {timeout:g} s")
        for meta in metas:
            result = waiting.pop(meta.task_id)
            result.settle(meta)
            yield result
