"""One message from its bytes to what it comes to: every outcome there is."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import gc
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Never

import msgspec
import pytest

from leveret import App, Ignore, Reject, Retry, RetryPolicy, TaskContext
from leveret.amqp.properties import BasicProperties, decode_header, encode_header
from leveret.amqp.tables import encode_shortstr
from leveret.app.executed import ExecutedTask
from leveret.app.execution import Attempt, Execution
from leveret.results.meta import ResultMeta, decode_meta
from leveret.tasks.decoding import decode
from leveret.tasks.message import Embedded, TaskMessage, encode
from leveret.tasks.outcomes import Failed, Ignored, NotDue, Rejected, RetryAt, Revoked, Succeeded, Unrunnable
from leveret.tasks.states import State
from tests.support.clocks import SetClock

ID = "8c1d7b9e-5f0b-4b7e-9d5c-1c1c5c0e8a11"
ROUTE = encode_shortstr("", "exchange") + encode_shortstr("tasks", "routing_key")

app = App("shop", broker="amqp://127.0.0.1:1")
tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Colour(enum.Enum):
    """An enum."""

    RED = "red"


@dataclass
class Order:
    """A dataclass."""

    number: int
    due: datetime


class Unspeakable(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Unsure:
    """As an array that is neither true nor false, and that cannot be shown either."""

    def __bool__(self) -> bool:
        raise ValueError("neither")

    __repr__ = __bool__  # type: ignore[assignment]  # the point of the test


class Evasive:
    """What does not even say of which class it is."""

    @property
    def __class__(self) -> type:  # type: ignore[override]  # the point of the test
        raise RuntimeError("no")


@app.task(name="add")
def add(x: int, y: int = 0) -> int:
    """Add."""
    return x + y


@app.task(name="ship")
def ship(order: Order, colour: Colour) -> list[object]:
    """Return what it was given."""
    assert isinstance(order, Order)
    assert colour is Colour.RED
    return [order, order.due]


@app.task(name="later")
async def later(x: int) -> int:
    """Add one, later."""
    await asyncio.sleep(0)
    return x + 1


@app.task(name="fail")
def fail(kind: str) -> Never:
    """Raise something."""
    raise {
        "value": ValueError("no"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "cancelled": asyncio.CancelledError(),
        "unspeakable": Unspeakable(),
        "unsure": ValueError(Unsure()),
        "huge": ValueError(10**5000),
        "bytes name": FileNotFoundError(2, "gone", os.fsdecode(b"caf\xe9")),
        "long": ValueError("x" * 5000),
        "celery's reject": Reject(ValueError("not mine")),
        "text retry": Retry(delay_s="soon"),  # type: ignore[arg-type]  # the point of the test
        "reject": Reject("not mine"),
        "requeue": Reject("not now", requeue=True),
        "ignore": Ignore("never mind"),
        "retry": Retry(ValueError("again"), delay_s=2.5),
    }[kind]


@app.task(name="opaque")
def opaque(kind: str = "object") -> object:
    """Return what has no JSON form."""
    return {"object": [object()], "huge": 10**5000, "surrogate": "\ud800", "evasive": Evasive()}[kind]


@app.task(name="autoretry", retry=RetryPolicy(max=2, on=(OSError,), backoff_s=4, jitter=False))
def autoretry(kind: str) -> Never:
    """Raise something that is retried by itself, or not."""
    raise {"os": OSError(2, "gone"), "value": ValueError("no"), "retry": Retry()}[kind]


@app.task(name="bound", bind=True, max_retries=1, default_retry_delay=7)
def bound(self: TaskContext, what: str) -> object:
    """Look at the request, or retry."""
    request = self.request
    if what == "look":
        return [request.id, request.retries, request.queue, request.routing_key, request.redelivered, request.headers, self.name]
    raise self.retry(exc=ValueError(what), countdown=1.5 if what == "soon" else None)


@app.task(name="set_tenant")
def set_tenant(name: str) -> str:
    """Set a context variable; return what it was."""
    before = tenant.get()
    tenant.set(name)
    return before


@pytest.fixture
def clock() -> SetClock:
    """Make a clock that stands still."""
    return SetClock()


@pytest.fixture
def execution(clock: SetClock) -> Iterator[Execution]:
    """Run messages by that clock."""
    execution = Execution(app, clock)
    yield execution
    execution.close()


def message(task: str, *args: object, **fields: object) -> TaskMessage:
    """Make a call."""
    return TaskMessage(id=ID, task=task, args=args, reply_to="back", correlation_id="c", **fields)  # type: ignore[arg-type]  # any


def run(execution: Execution, call: TaskMessage, *, route: bytes = ROUTE, redelivered: bool = False) -> ExecutedTask:
    """Run a call; the report survives the way between processes, as it must."""
    executed = execution.run(*encode(call), route, redelivered=redelivered)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(executed), type=ExecutedTask) == executed
    return executed


def result_of(executed: ExecutedTask) -> ResultMeta:
    """Return the result that is to be stored."""
    assert executed.meta is not None
    return decode_meta(executed.meta)


def test_a_task_that_returns_has_succeeded(execution: Execution) -> None:
    """The report has the outcome, the result as JSON, and where to send it."""
    executed = run(execution, message("add", 2, 3))
    assert executed.outcome == Succeeded()
    assert (executed.task_id, executed.task_name, executed.reply_to, executed.correlation_id) == (ID, "add", "back", "c")
    assert (result_of(executed).state, result_of(executed).result) == (State.SUCCESS, 5)
    assert (executed.follow_ups, executed.traceback) == ([], "")


def test_arguments_arrive_as_their_annotations_say(execution: Execution) -> None:
    """Dataclasses and enums come out of JSON as themselves."""
    moment = datetime(2026, 11, 23, tzinfo=UTC)
    executed = run(execution, message("ship", Order(1, moment), Colour.RED))
    assert result_of(executed).result == [{"number": 1, "due": moment}, moment]


def test_async_tasks_run_to_their_end(execution: Execution) -> None:
    """On a loop that is kept for the next one."""
    assert [result_of(run(execution, message("later", x))).result for x in (1, 2)] == [2, 3]


def test_what_an_async_task_leaves_behind_is_cancelled(execution: Execution) -> None:
    """The next task finds an empty loop; a left task hears of its end at once."""
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    own = App("own", broker="amqp://127.0.0.1:1")

    @own.task(name="leave")
    async def leave() -> int:
        own_tasks.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    own_tasks: list[asyncio.Task[None]] = []
    execution = Execution(own)
    for _ in range(2):
        assert result_of(run(execution, message("leave"))).result == 2
    assert ended == ["cancelled", "cancelled"]
    execution.close()


def test_context_variables_do_not_leak(execution: Execution) -> None:
    """What one task sets, the next does not see."""
    assert [result_of(run(execution, message("set_tenant", name))).result for name in "ab"] == ["nobody", "nobody"]


def test_a_task_that_raises_has_failed(execution: Execution) -> None:
    """The result describes the exception; the traceback begins with the user's own frame."""
    executed = run(execution, message("fail", "value"))
    assert executed.outcome == Failed("ValueError", "no")
    meta = result_of(executed)
    assert meta.state is State.FAILURE
    assert meta.result == {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    assert meta.traceback == executed.traceback
    lines = executed.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]
    assert "in fail" in lines[1]
    assert lines[-1] == "ValueError: no"


def test_an_async_task_that_raises_shows_its_own_frames_only() -> None:
    """Neither ours nor asyncio's are in the way."""
    own = App("own", broker="amqp://127.0.0.1:1")

    @own.task(name="fail")
    async def fail_later() -> Never:
        await asyncio.sleep(0)
        raise ValueError("no")

    execution = Execution(own)
    executed = run(execution, message("fail"))
    execution.close()
    assert executed.traceback.count("File ") == 1
    assert "in fail_later" in executed.traceback


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("exit", Failed("SystemExit", "3")),
        ("interrupt", Failed("KeyboardInterrupt", "")),
        ("cancelled", Failed("CancelledError", "")),
        ("unspeakable", Failed("Unspeakable", "(its str() failed)")),
        ("unsure", Failed("ValueError", "(its str() failed)")),
        ("huge", Failed("ValueError", "(its str() failed)")),
        ("bytes name", Failed("FileNotFoundError", "[Errno 2] gone: 'caf\\udce9'")),
        ("long", Failed("ValueError", f"{'x' * 1000}...")),
    ],
)
def test_nothing_a_task_raises_gets_out(execution: Execution, kind: str, outcome: Failed) -> None:
    """sys.exit() in a task ends the task, not the worker's child; an exception may even fail to be shown, or to be encoded."""
    executed = run(execution, message("fail", kind))
    assert executed.outcome == outcome
    assert result_of(executed).state is State.FAILURE


def test_endless_recursion_is_a_failure(execution: Execution) -> None:
    """The stack's end is an exception as any other, with a traceback that can be stored."""
    own = App("own", broker="amqp://127.0.0.1:1")

    @own.task(name="dive")
    def dive() -> object:
        return dive()

    executed = run(Execution(own), message("dive"))
    assert isinstance(executed.outcome, Failed)
    assert executed.outcome.exc_type == "RecursionError"
    assert len(executed.traceback) < 200_000


def test_a_result_without_json_form_is_a_failure(execution: Execution) -> None:
    """It names the task, the type and the place in the value; the work is not repeated for it."""
    executed = run(execution, message("opaque"))
    assert executed.outcome == Failed("EncodingError", "the result of opaque cannot be stored: object has no JSON form (at [0])")
    assert result_of(executed).state is State.FAILURE


@pytest.mark.parametrize(
    ("kind", "words"), [("huge", "Exceeds the limit (4300 digits)"), ("surrogate", "half a surrogate pair"), ("evasive", "no")]
)
def test_whatever_a_task_returns_is_reported(execution: Execution, kind: str, words: str) -> None:
    """A value nobody can make sense of is a failure of its task, and of nothing else."""
    executed = run(execution, message("opaque", kind))
    assert isinstance(executed.outcome, Failed)
    assert words in executed.outcome.exc_message
    assert result_of(executed).state is State.FAILURE


def test_an_end_that_cannot_be_told_is_a_failure(execution: Execution) -> None:
    """When working out what follows fails, because a delay is no number, say, the task has failed, and the child lives on."""
    executed = run(execution, message("fail", "text retry"))
    assert isinstance(executed.outcome, Failed)
    assert executed.outcome.exc_type == "EncodingError"
    assert "fail has run, but how it ended cannot be told: TypeError" in executed.outcome.exc_message
    assert result_of(executed).state is State.FAILURE


def test_arguments_that_do_not_fit_are_a_failure(execution: Execution) -> None:
    """A message of another version of the code is answered with the signature; it is not retried."""
    executed = run(execution, message("add", "many"))
    assert isinstance(executed.outcome, Failed)
    assert executed.outcome.exc_type == "ArgumentsError"
    assert "add(x: int, y: int = 0) -> int" in executed.outcome.exc_message
    assert executed.traceback == ""


def test_an_unknown_task_is_unrunnable(execution: Execution) -> None:
    """The caller gets a NotRegistered; the message is to be kept for a worker that knows it."""
    executed = run(execution, message("ad"))
    assert executed.outcome == Unrunnable("NotRegistered", "app 'shop' has no task named 'ad'; did you mean 'add'?")
    assert result_of(executed).state is State.FAILURE


def test_a_workflow_is_unrunnable() -> None:
    """What would have followed must not be lost in silence: the call is not run at all."""
    execution = Execution(app)
    executed = run(execution, message("add", 1, embedded=Embedded(chain=[{"task": "x"}], errbacks=[{"task": "y"}])))
    assert isinstance(executed.outcome, Unrunnable)
    assert "errbacks, chain" in executed.outcome.exc_message


def test_nonsense_is_unrunnable(execution: Execution) -> None:
    """A message that is none is reported under the ids it has, to the caller it names; without ids nothing is stored."""
    properties = BasicProperties(
        content_type="application/x-python-serialize", headers={"task": "add", "id": ID}, reply_to="back", correlation_id="c"
    )
    executed = execution.run(encode_header(1, properties), b"x", ROUTE, redelivered=False)
    assert isinstance(executed.outcome, Unrunnable)
    assert (executed.task_id, executed.task_name, executed.reply_to, executed.correlation_id) == (ID, "add", "back", "c")
    assert result_of(executed).state is State.FAILURE
    for header in (encode_header(1, BasicProperties()), b"\x00"):
        executed = execution.run(header, b"x", ROUTE, redelivered=False)
        assert isinstance(executed.outcome, Unrunnable)
        assert (executed.task_id, executed.meta) == ("", None)


def test_what_comes_after_its_expiry_is_revoked(execution: Execution, clock: SetClock) -> None:
    """It is not run, and the caller hears why."""
    at = datetime.fromtimestamp(clock.wall_s(), UTC)
    assert run(execution, message("add", 1, expires=at + timedelta(seconds=1))).outcome == Succeeded()
    executed = run(execution, message("add", 1, expires=at))
    assert executed.outcome == Revoked("expired")
    meta = result_of(executed)
    assert meta.state is State.REVOKED
    assert meta.result == {"exc_type": "TaskRevoked", "exc_message": ["expired"], "exc_module": "leveret.errors"}


def test_what_comes_before_its_time_comes_again(execution: Execution, clock: SetClock) -> None:
    """A Celery producer sends its ETA straight to the queue: the same bytes go into a delay queue, and count as no try."""
    call = message("add", 1, eta=datetime.fromtimestamp(clock.wall_s() + 90, UTC))
    header, body = encode(call)
    executed = run(execution, call)
    assert executed.outcome == NotDue(90.0)
    assert executed.meta is None
    (follow_up,) = executed.follow_ups
    assert (follow_up.header, follow_up.body, follow_up.queue, follow_up.delay_s) == (header, body, "tasks", 90.0)
    clock.advance(90)
    assert run(execution, call).outcome == Succeeded()


def test_what_has_waited_in_a_delay_queue_runs(execution: Execution, clock: SetClock) -> None:
    """The producer's clock may be ahead of ours: a message that has waited once is not made to wait again."""
    eta = datetime.fromtimestamp(clock.wall_s() + 90, UTC)
    call = message("add", 1, eta=eta, headers={"x-death": [{"queue": "tasks.delay.90000", "reason": "expired"}]})
    assert run(execution, call).outcome == Succeeded()


def test_a_policys_exception_is_retried_until_the_limit(execution: Execution, clock: SetClock) -> None:
    """Each retry is a new message of the same call; after the last the task has failed with the exception."""
    call = message("autoretry", "os", headers={"tenant": "eu", "x-death": []}, priority=4)
    for retries, delay_s in enumerate([4.0, 8.0]):
        executed = run(execution, call)
        assert executed.outcome == RetryAt(delay_s, retries + 1, "FileNotFoundError", "[Errno 2] gone")
        assert result_of(executed).state is State.RETRY
        (follow_up,) = executed.follow_ups
        assert (follow_up.queue, follow_up.delay_s) == ("tasks", delay_s)
        again = decode(follow_up.header, follow_up.body)
        assert (again.id, again.args, again.retries, again.priority) == (ID, ["os"], retries + 1, 4)
        assert again.headers == {"tenant": "eu"}
        assert again.eta == datetime.fromtimestamp(clock.wall_s() + delay_s, UTC)
        clock.advance(delay_s)
        call = again
    executed = run(execution, call)
    assert executed.outcome == Failed("FileNotFoundError", "[Errno 2] gone")
    assert executed.follow_ups == []


def test_other_exceptions_are_not_retried(execution: Execution) -> None:
    """The policy names those that are."""
    assert run(execution, message("autoretry", "value")).outcome == Failed("ValueError", "no")


def test_a_raised_retry_obeys_the_policy(execution: Execution) -> None:
    """Without a delay of its own it has the policy's, and its limit; then it fails with what it was for."""
    assert run(execution, message("autoretry", "retry")).outcome == RetryAt(4.0, 1, "Retry", "retry")
    assert run(execution, message("autoretry", "retry", retries=2)).outcome == Failed(
        "RetriesExhausted", "task autoretry has been retried 2 times"
    )
    assert run(execution, message("fail", "retry")).outcome == RetryAt(2.5, 1, "ValueError", "again")
    assert run(execution, message("fail", "retry", retries=3)).outcome == Failed("ValueError", "again")


def test_a_task_asks_for_its_retry(execution: Execution) -> None:
    """self.retry() has the delay it names or the task's, and raises the exception when none is left."""
    assert run(execution, message("bound", "soon")).outcome == RetryAt(1.5, 1, "ValueError", "soon")
    assert run(execution, message("bound", "whenever")).outcome == RetryAt(7.0, 1, "ValueError", "whenever")
    assert run(execution, message("bound", "soon", retries=1)).outcome == Failed("ValueError", "soon")


def test_a_retry_of_a_call_that_expires_says_what_is_left(execution: Execution, clock: SetClock) -> None:
    """The broker drops it when the call has expired, as it would have the first message."""
    executed = run(execution, message("bound", "soon", expires=datetime.fromtimestamp(clock.wall_s() + 60, UTC)))
    assert decode_header(executed.follow_ups[0].header)[1].expiration == "60000"


def test_a_bound_task_sees_its_request(execution: Execution) -> None:
    """Its id, count, way and the caller's headers."""
    executed = run(execution, message("bound", "look", retries=1, headers={"tenant": "eu"}), redelivered=True)
    assert result_of(executed).result == [ID, 1, "tasks", "tasks", True, {"tenant": "eu"}, "bound"]


def test_signals_are_obeyed(execution: Execution) -> None:
    """A rejected message's result says so, unless it comes again; an ignored one says that too."""
    rejected = run(execution, message("fail", "reject"))
    assert rejected.outcome == Rejected(requeue=False, reason="not mine")
    assert result_of(rejected).state is State.REJECTED
    celerys = run(execution, message("fail", "celery's reject"))
    assert celerys.outcome == Rejected(requeue=False, reason="ValueError: not mine")
    requeued = run(execution, message("fail", "requeue"))
    assert requeued.outcome == Rejected(requeue=True, reason="not now")
    assert requeued.meta is None
    ignored = run(execution, message("fail", "ignore"))
    assert ignored.outcome == Ignored()
    assert result_of(ignored).state is State.IGNORED


@pytest.mark.parametrize("kind", ["value", "reject", "ignore", "retry"])
def test_a_result_that_nobody_wants_is_not_stored(execution: Execution, kind: str) -> None:
    """ignore_result is the caller's word, for failures too."""
    assert run(execution, message("add", 1, ignore_result=True)).meta is None
    assert run(execution, message("fail", kind, ignore_result=True)).meta is None


def test_the_queue_of_a_retry_is_the_one_it_came_from(execution: Execution) -> None:
    """Named by the worker, or by the route; from another exchange than the default one it is the task's own."""
    header, body = encode(message("autoretry", "os"))
    assert execution.run(header, body, ROUTE, redelivered=False, queue="mine").follow_ups[0].queue == "mine"
    topic = encode_shortstr("logs", "exchange") + encode_shortstr("shop.audit", "routing_key")
    assert execution.run(header, body, topic, redelivered=False).follow_ups[0].queue == "celery"


def test_an_executor_may_call_by_itself(execution: Execution) -> None:
    """It uses prepare and finish, without run, to put its own way of calling between."""
    attempt = execution.prepare(*encode(message("add", 2, 3)), ROUTE, redelivered=False)
    assert isinstance(attempt, Attempt)
    assert attempt.call() == 5
    assert result_of(execution.finish(attempt, 5, runtime_s=0.5)).result == 5
    assert execution.finish_failed(attempt, ValueError("no"), runtime_s=0.5).runtime_s == 0.5


@pytest.mark.parametrize("kind", ["returns", "raises", "raises in async"])
def test_what_a_task_held_is_free_when_it_is_over(kind: str) -> None:
    """Neither values nor the frames of a traceback stay alive until some later collection."""

    class Big:
        """Something a task holds."""

    own = App("own", broker="amqp://127.0.0.1:1")
    held: list[weakref.ref[Big]] = []

    def hold(kind: str) -> None:
        big = Big()
        held.append(weakref.ref(big))
        if kind != "returns":
            raise ValueError("no")

    async def hold_async(kind: str) -> None:
        hold(kind)

    own.task(name="hold")(hold_async if kind == "raises in async" else hold)
    execution = Execution(own)
    gc.disable()
    try:
        run(execution, message("hold", kind))
        assert [reference() for reference in held] == [None]
    finally:
        gc.enable()
        execution.close()
