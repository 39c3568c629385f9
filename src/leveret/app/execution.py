"""Run one message, from its bytes to an ``ExecutedTask``: in a worker's child, where user code lives. No transport here.

::

    prepare   decode ─▶ task known? ─▶ not expired? ─▶ due? ─▶ arguments fit? ─▶ Attempt      (else an ExecutedTask already)
    call      the user's function, under its own context variables
    finish    a value ─▶ Succeeded │ an exception ─▶ Failed, RetryAt │ a signal ─▶ RetryAt, Rejected, Ignored

An executor that runs one task at a time uses ``run``; another puts its own way of calling between the other two.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from leveret.amqp.properties import decode_header
from leveret.amqp.tables import decode_shortstr
from leveret.app.app import App
from leveret.app.context import Request, TaskContext
from leveret.app.executed import ExecutedTask, FollowUp
from leveret.app.task import Task
from leveret.clock import Clock, SystemClock
from leveret.errors import AMQPError, EncodingError, MessageError, RetriesExhausted, TaskError, TaskRevoked
from leveret.results.meta import encode_failure, encode_success, storable_traceback
from leveret.tasks.decoding import decode
from leveret.tasks.message import TaskMessage, encode_message_header
from leveret.tasks.outcomes import Failed, Ignored, NotDue, Outcome, Rejected, RetryAt, Revoked, Succeeded, Unrunnable
from leveret.tasks.raw_header import peek
from leveret.tasks.retry import RetryPolicy
from leveret.tasks.routing import DELAY_S_MAX
from leveret.tasks.serializers import BODY_SIZE_BYTES_MAX, encodable
from leveret.tasks.signals import Ignore, Reject, Retry
from leveret.tasks.states import State

__all__ = ["Attempt", "Execution"]

_TEXT_CHARS_MAX: Final = 1_000
"""How much of an exception's text the supervisor is told, for its log; the stored result has all of it."""

_LEFTOVERS_S: Final = 5.0
"""How long asyncio tasks that an ``async def`` left behind have to end once they are cancelled."""

_INNER_FOLDERS: Final = (str(Path(__file__).parent.parent), str(Path(asyncio.__file__).parent))
"""Where the frames between the worker's loop and the user's function stand."""


@dataclass(slots=True)
class Attempt:
    """A call that may start: the user's function, and everything that is needed when it has ended."""

    message: TaskMessage
    body: bytes
    queue: str
    call: Callable[[], object]
    policy: RetryPolicy


class Execution:
    """Runs messages for one app; made once in each child."""

    def __init__(self, app: App, clock: Clock | None = None) -> None:
        self._app = app
        self._clock = clock or SystemClock()
        self._loop: asyncio.Runner | None = None

    def run(self, header: bytes, body: bytes, route: bytes, *, redelivered: bool, queue: str = "") -> ExecutedTask:
        """Run a message to its end, whatever that is: this never raises, for user code may raise anything.

        ``route`` is the exchange and the routing key as raw short strings; ``queue`` is the queue it came from, where that is
        known, and else guessed from the route.
        """
        attempt = self.prepare(header, body, route, redelivered=redelivered, queue=queue)
        if isinstance(attempt, ExecutedTask):
            return attempt
        started_s = self._clock.monotonic_s()
        value, error = self._call(attempt)
        runtime_s = self._clock.monotonic_s() - started_s
        try:
            if error is not None:
                return self.finish_failed(attempt, error, runtime_s=runtime_s)
            return self.finish(attempt, value, runtime_s=runtime_s)
        except Exception as problem:  # values and exceptions are of the user's classes, whose methods may do anything
            return self._unreportable(attempt, problem, runtime_s=runtime_s)
        finally:
            # The traceback leads to this frame, as the one that _call returned to: a cycle that would keep all that the task's
            # frames hold until some later collection.
            del error

    def prepare(self, header: bytes, body: bytes, route: bytes, *, redelivered: bool, queue: str = "") -> Attempt | ExecutedTask:
        """Return the call to make, or what the message comes to if there is none to be made."""
        try:
            message = decode(header, body)
        except MessageError as error:
            return self._unreadable(header, error)
        try:
            task = self._app.tasks.find(message.task)
            _refuse_workflow(message)
        except TaskError as error:
            return self._ended(message, _unrunnable(error), State.FAILURE, error)
        now_s = self._clock.wall_s()
        if message.expires is not None and message.expires.timestamp() <= now_s:
            return self._ended(message, Revoked("expired"), State.REVOKED, TaskRevoked("expired"))
        exchange, routing_key = _split_route(route)
        queue = queue or (routing_key if not exchange else self._app.queue_of(task))
        # A message that has been through a delay queue has waited: its ETA is by the producer's clock, which may be ahead.
        if message.eta is not None and message.eta.timestamp() > now_s and "x-death" not in message.headers:
            delay_s = min(message.eta.timestamp() - now_s, DELAY_S_MAX)
            follow_up = FollowUp(header, body, queue, delay_s)
            return ExecutedTask(NotDue(delay_s), message.id, message.task, follow_ups=[follow_up])
        try:
            args, kwargs = task.signature.convert(message.args, message.kwargs)
        except TaskError as error:
            return self._ended(message, _failed(error), State.FAILURE, error)
        policy = task.options.policy(default_delay_s=self._app.conf.task_default_retry_delay)
        if task.options.bind:
            request = _request(message, exchange, routing_key, queue, redelivered=redelivered)
            args = [TaskContext(task.name, request, policy), *args]
        return Attempt(message, body, queue, _bound(task, args, kwargs), policy)

    def finish(self, attempt: Attempt, value: object, *, runtime_s: float) -> ExecutedTask:
        """Return what a call comes to that returned; one whose value has no JSON form has failed."""
        message = attempt.message
        meta = None
        if not message.ignore_result:
            try:
                meta = encode_success(
                    message.id, value, now_s=self._clock.wall_s(), group_id=message.group, parent_id=message.parent_id
                )
                if len(meta) > BODY_SIZE_BYTES_MAX:
                    raise EncodingError(
                        f"it has {len(meta):,} bytes as JSON, and {BODY_SIZE_BYTES_MAX:,} are the most; "
                        "keep it in a file or a database, and return where it is"
                    )
            except EncodingError as error:
                error = EncodingError(f"the result of {message.task} cannot be stored: {error}")
                return self._ended(message, _failed(error), State.FAILURE, error, runtime_s=runtime_s)
        return ExecutedTask(
            Succeeded(), message.id, message.task, runtime_s, meta, message.reply_to or "", message.correlation_id or message.id
        )

    def finish_failed(self, attempt: Attempt, error: BaseException, *, runtime_s: float) -> ExecutedTask:
        """Return what a call comes to that raised: signals are obeyed, for the rest the retry policy decides."""
        message, policy = attempt.message, attempt.policy
        is_allowed = policy.allows(message.retries)
        match error:
            case Reject(requeue=requeue, reason=reason):
                return self._ended(message, Rejected(requeue, _short(reason)), State.REJECTED, error, runtime_s=runtime_s)
            case Ignore():
                return self._ended(message, Ignored(), State.IGNORED, error, runtime_s=runtime_s)
            case Retry():
                if is_allowed or error.is_allowed:
                    return self._retried(attempt, error.exc or error, delay_s=error.delay_s, runtime_s=runtime_s)
                cause = error.exc or RetriesExhausted(f"task {message.task} has been retried {message.retries} times")
                return self._ended(message, _failed(cause), State.FAILURE, cause, runtime_s=runtime_s)
            case _ if is_allowed and policy.wants(error):
                return self._retried(attempt, error, delay_s=None, runtime_s=runtime_s)
            case _:
                return self._ended(message, _failed(error), State.FAILURE, error, runtime_s=runtime_s)

    def close(self) -> None:
        """Close the event loop of ``async def`` tasks; safe to call twice."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def _call(self, attempt: Attempt) -> tuple[object, BaseException | None]:
        """Call the function, and await what it returns if that is to be awaited; return the value, or what was raised."""
        context = contextvars.copy_context()
        # SystemExit and KeyboardInterrupt too: a task that calls sys.exit() has failed; who ends a child is the supervisor.
        try:
            value = context.run(attempt.call)
            if not isinstance(value, Coroutine):
                return value, None
        except BaseException as error:
            return None, error
        if self._loop is None:
            self._loop = asyncio.Runner()
        return self._loop.run(_run_alone(value), context=context)

    def _retried(self, attempt: Attempt, error: BaseException, *, delay_s: float | None, runtime_s: float) -> ExecutedTask:
        message = attempt.message
        if delay_s is None:
            delay_s = attempt.policy.delay_s(message.retries, random.random())
        delay_s = min(delay_s, DELAY_S_MAX)
        due_s = self._clock.wall_s() + delay_s
        again = message.retried(datetime.fromtimestamp(due_s, UTC) if delay_s else None)
        if message.expires is not None:
            again.expiration_ms = max(1, int((message.expires.timestamp() - self._clock.wall_s()) * 1000))
        header = encode_message_header(again, len(attempt.body))
        executed = self._ended(
            message,
            RetryAt(delay_s, again.retries, type(error).__qualname__, _text(error)),
            State.RETRY,
            error,
            runtime_s=runtime_s,
        )
        executed.follow_ups = [FollowUp(header, attempt.body, attempt.queue, delay_s)]
        return executed

    def _ended(
        self, message: TaskMessage, outcome: Outcome, state: State, error: BaseException, *, runtime_s: float = 0.0
    ) -> ExecutedTask:
        """Report what is not a success; a message that goes back to its queue has no result yet."""
        text = _trimmed_traceback(error)
        meta = None
        if not message.ignore_result and not (isinstance(outcome, Rejected) and outcome.requeue):
            meta = encode_failure(
                message.id,
                state,
                error,
                now_s=self._clock.wall_s(),
                traceback=text or None,
                group_id=message.group,
                parent_id=message.parent_id,
            )
        return ExecutedTask(
            outcome,
            message.id,
            message.task,
            runtime_s,
            meta,
            message.reply_to or "",
            message.correlation_id or message.id,
            traceback=text,
        )

    def _unreportable(self, attempt: Attempt, problem: Exception, *, runtime_s: float) -> ExecutedTask:
        """Report that a call has ended in a way that cannot be told; nothing of the user's is touched any more."""
        text = f"{attempt.message.task} has run, but how it ended cannot be told: {type(problem).__qualname__}: {_text(problem)}"
        error = EncodingError(text)
        return self._ended(attempt.message, _failed(error), State.FAILURE, error, runtime_s=runtime_s)

    def _unreadable(self, header: bytes, error: MessageError) -> ExecutedTask:
        """Report a message that is not a task message, to whoever it says it is from."""
        name, task_id = peek(header)
        try:
            _, properties = decode_header(header)
        except AMQPError:
            reply_to, correlation_id = "", ""
        else:
            reply_to, correlation_id = properties.reply_to or "", properties.correlation_id or ""
        message = TaskMessage(id=task_id or "", task=name or "", reply_to=reply_to, correlation_id=correlation_id)
        message.ignore_result = not task_id
        return self._ended(message, _unrunnable(error), State.FAILURE, error)


async def _run_alone(coroutine: Coroutine[object, object, object]) -> tuple[object, BaseException | None]:
    """Await a task's coroutine; then end what it left running on the loop, which the next task is to find empty."""
    try:
        return await coroutine, None
    except BaseException as error:
        return None, error
    finally:
        leftovers = asyncio.all_tasks() - {asyncio.current_task()}
        for leftover in leftovers:
            leftover.cancel()
        if leftovers:
            await asyncio.wait(leftovers, timeout=_LEFTOVERS_S)


def _bound(task: Task[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> Callable[[], object]:
    function = task.function
    return lambda: function(*args, **kwargs)


def _refuse_workflow(message: TaskMessage) -> None:
    """Raise for a message that something is to follow from, which would be lost here."""
    if message.embedded:
        what = ", ".join(name for name in ("callbacks", "errbacks", "chain", "chord") if getattr(message.embedded, name))
        raise MessageError(f"the call is part of a workflow ({what}), which this version cannot go on with")


def _request(message: TaskMessage, exchange: str, routing_key: str, queue: str, *, redelivered: bool) -> Request:
    return Request(
        id=message.id,
        task=message.task,
        args=message.args,
        kwargs=message.kwargs,
        retries=message.retries,
        eta=message.eta,
        expires=message.expires,
        root_id=message.root_id,
        parent_id=message.parent_id,
        group=message.group,
        group_index=message.group_index,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        priority=message.priority,
        exchange=exchange,
        routing_key=routing_key,
        queue=queue,
        redelivered=redelivered,
        crashes=message.crashes,
        headers=message.headers,
        ignore_result=message.ignore_result,
    )


def _split_route(route: bytes) -> tuple[str, str]:
    exchange, offset = decode_shortstr(route, 0)
    routing_key, _ = decode_shortstr(route, offset)
    return exchange, routing_key


def _failed(error: BaseException) -> Failed:
    return Failed(type(error).__qualname__, _text(error))


def _unrunnable(error: BaseException) -> Unrunnable:
    return Unrunnable(type(error).__qualname__, _text(error))


def _text(error: BaseException) -> str:
    try:
        return _short(str(error))
    except Exception:  # the class is the user's, and so is its __str__
        return "(its str() failed)"


def _short(text: str) -> str:
    return encodable(text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}...")


def _trimmed_traceback(error: BaseException) -> str:
    """Return the traceback from the user's first frame on; empty if the user's code was never reached."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_INNER_FOLDERS):
        frames = frames.tb_next
    return storable_traceback("".join(traceback.format_exception(type(error), error, frames))) if frames is not None else ""
