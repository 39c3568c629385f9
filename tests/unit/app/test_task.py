"""The decorator: names, options, and calls that are plain calls."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from leveret import App, Request, RetriesExhausted, Retry, RetryPolicy, Task, TaskContext
from leveret.amqp.topology import Exchange, Queue
from leveret.errors import ArgumentsError, ConfigurationError, DuplicateTask

_app = App("level", broker="amqp://127.0.0.1:1")


@_app.task
def module_level() -> None:
    """Stand where pickle finds it."""


@pytest.fixture
def app() -> App:
    """Make an app whose broker nobody can reach, for nothing here needs one."""
    return App("shop", broker="amqp://127.0.0.1:1")


def test_a_task_is_named_after_module_and_function(app: App) -> None:
    """With or without parentheses; another name can be given."""

    @app.task
    def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    @app.task(queue="mail")
    def send() -> None:
        """Send."""

    @app.task(name="other.name")
    def third() -> None:
        """Do nothing."""

    assert list(app.tasks) == [f"{__name__}.add", f"{__name__}.send", "other.name"]
    assert isinstance(add, Task)
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add.", __name__)
    assert str(inspect.signature(add)) == "(x: 'int', y: 'int') -> 'int'"
    assert send.options.queue == "mail"


def test_a_task_is_pickled_by_its_place() -> None:
    """As a function is: a program that sends from several processes hands its tasks to them."""
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert pickle.loads(pickle.dumps(module_level.delay)) == module_level.delay


def test_a_plain_call_is_a_plain_call(app: App) -> None:
    """No message, no conversion, no retries; a coroutine function gives its coroutine."""

    @app.task
    def echo(x: int) -> object:
        return x

    @app.task
    async def later(x: int) -> int:
        return x

    assert echo("not an int") == "not an int"  # type: ignore[arg-type]  # Python does not check either
    assert asyncio.run(later(3)) == 3


def test_a_bound_task_called_plainly_has_an_empty_request(app: App) -> None:
    """Its context says so, and a retry raises what it was asked for."""

    @app.task(bind=True)
    def look(self: TaskContext, x: int) -> tuple[bool, int]:
        return self.request.called_directly, x

    @app.task(bind=True)
    def again(self: TaskContext) -> NoReturn:
        raise self.retry(exc=ValueError("no"))

    assert look(3) == (True, 3)
    with pytest.raises(ValueError, match="no"):
        again()


def test_two_tasks_of_one_name_are_an_error(app: App) -> None:
    """The error says where the first one stands."""

    @app.task(name="same")
    def first() -> None:
        """Do nothing."""

    with pytest.raises(DuplicateTask, match=r"test_task\.py:\d+"):

        @app.task(name="same")
        def second() -> None:
            """Do nothing."""


def test_options_are_kept(app: App) -> None:
    """Those that are given are the task's, the others the app's."""
    task = app.task(
        priority=5, acks_late=False, acks_on_failure_or_timeout=False, reject_on_worker_lost=False, ignore_result=True
    )(print)
    options = task.options
    assert (options.priority, options.ignore_result, options.queue) == (5, True, None)
    assert not any([options.acks_late, options.acks_on_failure_or_timeout, options.reject_on_worker_lost])


def test_celerys_retry_options_make_a_policy(app: App) -> None:
    """autoretry_for and its companions mean what they mean in Celery; retry= is another way to say it, not both."""
    plain = app.task(name="plain")(print)
    assert plain.options.retry.on == ()
    assert plain.options.policy(default_delay_s=7).delay_s(0, 1) == 7
    celery = app.task(name="celery", autoretry_for=(OSError,), retry_backoff=2, retry_jitter=False, max_retries=None)(print)
    assert celery.options.policy(default_delay_s=7) == RetryPolicy(None, (OSError,), backoff_s=2, jitter=False)
    ours = RetryPolicy(max=1)
    assert app.task(name="ours", retry=ours)(print).options.policy(default_delay_s=7) == ours
    delayed = app.task(name="delayed", default_retry_delay=3)(print)
    assert delayed.options.policy(default_delay_s=7).delay_s(5, 1) == 3
    with pytest.raises(ConfigurationError, match="either retry=RetryPolicy"):
        app.task(name="both", retry=ours, max_retries=2)(print)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_limit": 3}, "'time_limit' is not available yet"),
        ({"que": "mail"}, "no task option 'que'"),
        ({"priority": 300}, "from 0 to 255"),
        ({"queue": ""}, "needs a name"),
        ({"retry": 3}, "must be a RetryPolicy"),
        ({"max_retries": -1}, "max must be"),
        ({"autoretry_for": (3,)}, "must be exception classes"),
    ],
)
def test_options_that_cannot_be_are_refused(app: App, options: dict[str, object], words: str) -> None:
    """When the task is defined, not when it is called."""
    with pytest.raises(ConfigurationError) as caught:
        app.task(**options)(print)  # type: ignore[call-overload]  # the point of the test
    assert words in str(caught.value)
    assert not app.tasks


@pytest.mark.parametrize(("args", "kwargs"), [(1, None), ("ab", None), ({1}, None), ((), [("x", 1)])])
def test_arguments_in_another_form_are_told(app: App, args: object, kwargs: object) -> None:
    """A number, or a text that would count as one argument per character, is no sequence of arguments."""
    with pytest.raises(
        ArgumentsError, match=r"apply_async\(\) takes the (keyword )?arguments of t\(.*\) as a (tuple or list|dict)"
    ):
        app.task(name="t")(lambda *a, **k: None).apply_async(args, kwargs)  # type: ignore[arg-type]  # the point of the test


def test_an_unknown_call_option_is_a_type_error(app: App) -> None:
    """As for any function; the message has those there are."""
    task = app.task(print)
    with pytest.raises(TypeError, match=r"no option 'cuntdown'; it has countdown"):
        task.apply_async((), cuntdown=3)  # type: ignore[call-overload]  # the point of the test


def test_a_program_is_named_after_its_file(tmp_path: Path) -> None:
    """In ``__main__`` tasks have the names by which a worker that imports the file knows them."""
    source = "from leveret import App\napp = App('x')\n@app.task\ndef f(): pass\nprint(f.name)\n"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "jobs.py").write_text(source)
    for arguments, name in ((["shop/jobs.py"], "jobs.f"), (["-m", "shop.jobs"], "shop.jobs.f")):
        output = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert output.strip() == name


def test_an_app_knows_its_queues(app: App) -> None:
    """Those declared, those its tasks and routes name, and the default queue, each once."""
    tasks = Queue("tasks", Exchange("tasks"), routing_key="tasks")
    app.conf.update(task_queues=[tasks], task_routes={"x.*": "routed"}, task_queue_max_priority=9)
    app.task(name="a", queue="mail")(print)
    app.task(name="b", queue="tasks")(print)
    app.task(name="x.c")(print)
    queues = app.queues()
    assert [queue.name for queue in queues] == ["tasks", "mail", "routed", "celery"]
    assert queues[0] == tasks
    assert queues[1].max_priority == 9
    assert app.queue_of(app.tasks["x.c"]) == "routed"
    assert app.queue_of(app.tasks["x.c"], asked="now") == "now"


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_an_app_needs_a_name(name: str) -> None:
    """It names a virtual host and a file."""
    with pytest.raises(ConfigurationError, match="needs a name"):
        App(name)


def test_the_environment_names_the_broker_where_the_program_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """LEVERET_BROKER_URL is for programs that say nothing; what they say counts more."""
    monkeypatch.setenv("LEVERET_BROKER_URL", "amqp://from-environment")
    assert App("shop").conf.broker_url == "amqp://from-environment"
    assert App("shop", broker="amqp://from-program").conf.broker_url == "amqp://from-program"
    monkeypatch.setenv("LEVERET_BROKER_URL", "")
    assert App("shop").conf.broker_url == "local://"


def test_retry_says_when(app: App) -> None:
    """A countdown is kept, a time is counted from now, without either the policy decides; a time without zone is refused."""
    context = TaskContext("t", Request(id="i"))
    with pytest.raises(Retry) as caught:
        context.retry(countdown=3)
    assert caught.value.delay_s == 3
    with pytest.raises(Retry) as caught:
        context.retry(eta=datetime.fromtimestamp(0, UTC))
    assert caught.value.delay_s == 0
    with pytest.raises(ValueError, match="no time zone"):
        context.retry(eta=datetime(2026, 11, 23))
    with pytest.raises(Retry) as caught:
        context.retry()
    assert caught.value.delay_s is None


def test_retry_ends_with_the_error_it_is_for(app: App) -> None:
    """With no retries left the exception at hand is raised, or RetriesExhausted where there is none, in the task itself."""
    context = TaskContext("t", Request(id="i", retries=3))
    with pytest.raises(RetriesExhausted, match="3 times"):
        context.retry()
    try:
        raise OSError("gone")
    except OSError:
        with pytest.raises(OSError, match="gone"):
            context.retry()
    with pytest.raises(Retry):
        context.retry(max_retries=4)
