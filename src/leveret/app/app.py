"""The app: a name, settings, tasks, and what sends them. One object per program, made at import and cheap until it is used."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, Literal, ParamSpec, Protocol, Self, TypedDict, TypeVar, Unpack, overload

from leveret.amqp.topology import Queue
from leveret.app.context import TaskContext
from leveret.app.result import Result
from leveret.app.settings import Settings
from leveret.app.task import CallOptions, Task
from leveret.errors import ConfigurationError
from leveret.results.base import ResultReader
from leveret.tasks.options import TaskOptions
from leveret.tasks.registry import Registry
from leveret.tasks.retry import CELERY_MAX, RetryPolicy, celery_policy
from leveret.tasks.routing import queue_name, route_to
from leveret.tasks.signature import TaskSignature

if TYPE_CHECKING:
    from leveret.app.producer import Producer

__all__ = ["App", "TaskKeywords"]

P = ParamSpec("P")
R = TypeVar("R")

_NAME_CHARS_MAX: Final = 100
_BROKER_VARIABLE: Final = "LEVERET_BROKER_URL"


class TaskKeywords(TypedDict, total=False):
    """What the decorator takes; ``TaskOptions`` says what each is for, ``RetryPolicy`` and Celery's words what retries do."""

    name: str
    queue: str
    priority: int
    acks_late: bool
    acks_on_failure_or_timeout: bool
    reject_on_worker_lost: bool
    ignore_result: bool
    retry: RetryPolicy
    max_retries: int | None
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    default_retry_delay: float


class _Decorator(Protocol):
    """What ``@app.task(...)`` gives."""

    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _BoundDecorator(Protocol):
    """What ``@app.task(bind=True, ...)`` gives: callers do not pass the context."""

    def __call__(self, function: Callable[Concatenate[TaskContext, P], R], /) -> Task[P, R]: ...


_CELERY_RETRY: Final = frozenset(
    {"max_retries", "autoretry_for", "dont_autoretry_for", "retry_backoff", "retry_backoff_max", "retry_jitter"}
    | {"default_retry_delay"}
)
_NOT_YET: Final = frozenset({"time_limit", "soft_time_limit", "rate_limit", "track_started", "serializer", "compression", "base"})


class App:
    """Everything that belongs together: ``app = App("shop")``, ``@app.task``, ``app.conf``.

    ``name`` is also the virtual host on the local broker, so programs that are to share work have apps of one name.
    ``broker`` and ``backend`` are short for the settings ``broker_url`` and ``result_backend``. The app may be used from any
    thread and after a fork; ``close`` or a ``with`` block lets go of its connections, and the next use makes new ones.
    """

    def __init__(self, name: str, broker: str | None = None, backend: str | None = None) -> None:
        """Make an app without tasks.

        Raises:
            ConfigurationError: no name, or a URL that cannot be.

        """
        if not name or len(name) > _NAME_CHARS_MAX:
            raise ConfigurationError(f"an app needs a name of 1 to {_NAME_CHARS_MAX} characters, not {name!r}")
        self.name = name
        self.conf = Settings()
        self.tasks: Registry[Task[..., object]] = Registry(name)
        url = broker if broker is not None else os.environ.get(_BROKER_VARIABLE)
        if url:
            try:
                self.conf.broker_url = url
            except ConfigurationError as error:
                if broker is not None:
                    raise
                raise ConfigurationError(f"the environment variable {_BROKER_VARIABLE} cannot be used: {error}") from None
        if backend is not None:
            self.conf.result_backend = backend
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def __repr__(self) -> str:
        return f"<App {self.name!r} with {len(self.tasks)} tasks>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **keywords: Unpack[TaskKeywords]) -> _BoundDecorator: ...
    @overload
    def task(self, /, *, bind: Literal[False] = False, **keywords: Unpack[TaskKeywords]) -> _Decorator: ...
    def task(
        self, function: Callable[..., object] | None = None, /, *, bind: bool = False, **keywords: Unpack[TaskKeywords]
    ) -> Task[..., object] | Callable[..., Task[..., object]]:
        """Make a function a task, as ``@app.task`` or ``@app.task(queue="mail", ...)``.

        Raises:
            DuplicateTask: the app has a task of that name.
            ConfigurationError: an option that is not known, or a value that cannot be.

        """
        if function is not None:
            return self._add(function, bind, keywords)
        return lambda function: self._add(function, bind, keywords)

    def send(
        self, task: Task[..., object], args: Sequence[object], kwargs: Mapping[str, object], options: CallOptions
    ) -> Result[object]:
        """Send one call; ``task.delay`` and ``task.apply_async`` are the ways to it."""
        self.conf.freeze(f"{task.name} was sent")
        queue = self.queue_of(task, asked=options.get("queue"))
        sent = self._open_producer().send(task, args, kwargs, options, queue=queue)
        return Result(sent.task_id, self, task=task.name, convert=task.signature.convert_result, is_ignored=sent.ignore_result)

    def result(self, task_id: str) -> Result[object]:
        """Return the handle of a call that was made elsewhere, by its id."""
        return Result(task_id, self)

    def result_reader(self) -> ResultReader:
        """Return the reader of this process, opened when it is first needed."""
        self.conf.freeze("a result was asked for")
        return self._open_producer().reader()

    def queue_of(self, task: Task[..., object], *, asked: str | None = None) -> str:
        """Return the name of the queue that a task's calls go to, ``asked`` being what one call asks for."""
        conf = self.conf
        return queue_name(
            task.name, asked=asked, option=task.options.queue, routes=conf.task_routes, default=conf.task_default_queue
        )

    def queues(self) -> list[Queue]:
        """Return every queue the app names: those in ``task_queues``, of its tasks and routes, and the default queue."""
        conf = self.conf
        known = {queue.name: queue for queue in conf.task_queues}
        names = [*known, *map(self.queue_of, self.tasks.values()), *conf.task_routes.values(), conf.task_default_queue]
        return [route_to(name, known, max_priority=conf.task_queue_max_priority).queue for name in dict.fromkeys(names)]

    def close(self) -> None:
        """Let go of connections and files; safe to call twice."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None and self._pid == os.getpid():
            producer.close()

    def _open_producer(self) -> Producer:
        # In a forked child the lock may be held by a thread that does not exist there. The producer itself knows about forks.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
        with self._lock:
            if self._producer is None:
                # The protocol engine, the client and the result stores (60 ms to import): a program that only defines tasks,
                # or a worker's child, never needs them.
                from leveret.app.producer import Producer  # noqa: PLC0415 - see above

                self._producer = Producer(self.name, self.conf)
            return self._producer

    def _add(self, function: Callable[..., object], bind: bool, keywords: TaskKeywords) -> Task[..., object]:
        known = TaskKeywords.__annotations__
        for keyword in keywords:
            if keyword in _NOT_YET:
                raise ConfigurationError(f"the task option {keyword!r} is not available yet: nothing in this version obeys it")
            if keyword not in known:
                raise ConfigurationError(f"there is no task option {keyword!r}; there are bind, {', '.join(known)}")
        name = keywords.get("name") or _task_name(function)
        options = TaskOptions(
            queue=keywords.get("queue"),
            priority=keywords.get("priority"),
            bind=bind,
            acks_late=keywords.get("acks_late"),
            acks_on_failure_or_timeout=keywords.get("acks_on_failure_or_timeout"),
            reject_on_worker_lost=keywords.get("reject_on_worker_lost"),
            ignore_result=keywords.get("ignore_result"),
            retry=_retry_policy(name, keywords),
            has_own_delay="retry" in keywords or "default_retry_delay" in keywords or bool(keywords.get("retry_backoff")),
        )
        task: Task[..., object] = Task(name, function, options, TaskSignature(name, function, bound=bind), self)
        self.tasks.add(name, task, place=_place(function))
        return task


def _retry_policy(name: str, keywords: TaskKeywords) -> RetryPolicy:
    policy = keywords.get("retry")
    if policy is None:
        return celery_policy(
            max_retries=keywords.get("max_retries", CELERY_MAX),
            autoretry_for=keywords.get("autoretry_for", ()),
            dont_autoretry_for=keywords.get("dont_autoretry_for", ()),
            retry_backoff=keywords.get("retry_backoff", False),
            retry_backoff_max=keywords.get("retry_backoff_max", 600.0),
            retry_jitter=keywords.get("retry_jitter", True),
            default_retry_delay_s=keywords.get("default_retry_delay", 180.0),
        )
    both = sorted(keywords.keys() & _CELERY_RETRY)
    if both:
        raise ConfigurationError(f"task {name}: give either retry=RetryPolicy(...) or {both[0]}, not both")
    if not isinstance(policy, RetryPolicy):
        raise ConfigurationError(f"task {name}: retry must be a RetryPolicy, not {policy!r}")
    return policy


def _task_name(function: Callable[..., object]) -> str:
    """Return ``module.function``; for the program itself the module's name is what a worker would import it by."""
    module = getattr(function, "__module__", None) or "__main__"
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:  # python -m package.module
            module = spec.name.removesuffix(".__main__")
        elif file is not None:
            module = os.path.splitext(os.path.basename(file))[0]  # pathlib takes 3 ms to import
    return f"{module}.{getattr(function, '__name__', type(function).__name__)}"


def _place(function: Callable[..., object]) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
