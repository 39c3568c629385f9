"""A task: a function that can also be run by a worker. The decorator keeps its signature, and ``delay`` has it too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from leveret.amqp.tables import FieldValue
from leveret.app.context import Request, TaskContext
from leveret.app.result import Result
from leveret.errors import ArgumentsError
from leveret.tasks.options import TaskOptions
from leveret.tasks.signature import TaskSignature

__all__ = ["CallOptions", "Sender", "Task"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """What one call may say besides its arguments; what it leaves out, the task and the settings say."""

    countdown: float | None
    """Seconds from now before which it does not start."""
    eta: datetime | None
    """The time before which it does not start, with a time zone."""
    expires: float | datetime | None
    """Seconds from now, or the time, after which it does not start any more."""
    priority: int | None
    queue: str | None
    task_id: str | None
    headers: Mapping[str, FieldValue] | None
    """Headers to travel along; the task finds them in ``self.request.headers``."""
    ignore_result: bool | None


_CALL_OPTIONS: Final = frozenset(CallOptions.__annotations__)


class Sender(Protocol):
    """What a task needs of its app: something that sends calls."""

    def send(
        self, task: Task[..., object], args: Sequence[object], kwargs: Mapping[str, object], options: CallOptions
    ) -> Result[object]:
        """Send one call; when it returns, the broker has taken responsibility for it."""
        ...


class Task(Generic[P, R_co]):
    """A function known by a name to producers and workers alike; calling it calls the function, here and now."""

    def __init__(
        self, name: str, function: Callable[..., R_co], options: TaskOptions, signature: TaskSignature, sender: Sender
    ) -> None:
        """Make the task; ``function`` takes a ``TaskContext`` before the others of ``P`` if ``options.bind`` says so."""
        self.name = name
        self.function = function
        self.options = options
        self.signature = signature
        self.is_async = inspect.iscoroutinefunction(function)
        self._sender = sender
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<Task {self.signature}>"

    def __reduce__(self) -> str:
        """Pickle it as its function would be: by its place in its module."""
        return self.function.__qualname__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function as it is: no message, no retries, no conversion."""
        if self.options.bind:
            request = Request(task=self.name, args=args, kwargs=kwargs, called_directly=True)
            return self.function(TaskContext(self.name, request, self.options.retry), *args, **kwargs)
        return self.function(*args, **kwargs)

    @overload
    def delay(self: Task[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Result[T]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R_co]: ...
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[object]:
        """Send a call with these arguments; when it returns, the broker has taken responsibility for it.

        Raises:
            ArgumentsError: they do not fit the function; nothing was sent.
            EncodingError: one has no JSON form; nothing was sent.
            BrokerUnavailable: no broker answered in time; nothing was sent.
            PublishError: the broker has not taken the message; its subclasses say why.

        """
        return self._sender.send(cast("Task[..., object]", self), args, kwargs, {})

    @overload
    def apply_async(
        self: Task[P, Awaitable[T]],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Unpack[CallOptions],
    ) -> Result[T]: ...
    @overload
    def apply_async(
        self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None, **options: Unpack[CallOptions]
    ) -> Result[R_co]: ...
    def apply_async(
        self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None, **options: Unpack[CallOptions]
    ) -> Result[object]:
        """Send a call with options of its own; see ``CallOptions`` for them and ``delay`` for what it raises."""
        unknown = options.keys() - _CALL_OPTIONS
        if unknown:
            raise TypeError(f"apply_async() has no option {sorted(unknown)[0]!r}; it has {', '.join(sorted(_CALL_OPTIONS))}")
        if isinstance(args, str | bytes) or not isinstance(args, Sequence):
            raise ArgumentsError(f"apply_async() takes the arguments of {self.signature} as a tuple or list, not {args!r}")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise ArgumentsError(f"apply_async() takes the keyword arguments of {self.signature} as a dict, not {kwargs!r}")
        return self._sender.send(cast("Task[..., object]", self), args, kwargs or {}, options)
