"""Bad input, as a user makes it: what the programs say, how they end, and that nothing is lost.

What ``--app`` and ``--pool`` may be wrong about is in ``test_worker_cli``, what a broker's own start may fail of in
``test_broker_server``, and unregistered tasks are in ``test_worker_tasks``.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.brokers import Broker
from tests.support.embedded import EmbeddedBroker
from tests.support.pika_client import open_connection
from tests.support.processes import free_port, last_lines, start_process, stop_process
from tests.support.waiting import wait_until
from tests.support.worker import ready_count

PROGRAM = Path(sys.executable).parent / "leveret"
CONNECT_TIMEOUT_S = 4.0
START_S = 4.0
"""How long a program may take besides connecting, on a busy machine."""

TASKS = """\
import os

from leveret import App

app = App("shop")
app.conf.task_default_queue = os.environ.get("QUEUE", "celery")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def opaque() -> object:
    return {"orders": [object()]}


@app.task
def unreadable_name() -> None:
    open(os.fsdecode(b"caf\\xe9"))
"""


class Ended(NamedTuple):
    """A program that has ended."""

    exit_code: int
    said: str
    took_s: float

    @property
    def message(self) -> str:
        """Return the one message it ended with."""
        (line,) = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return line


class Shop:
    """A user's folder with ``tasks.py`` in it, and a home of its own for the local broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tasks.py").write_text(TASKS)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEVERET_")},
            "LEVERET_HOME": os.fspath(folder / "home"),
        }
        self.log = folder / "worker.log"
        self._worker: subprocess.Popen[bytes] | None = None

    def use(self, url: str, queue: str = "celery") -> None:
        """Name the broker and the default queue."""
        self.environment["LEVERET_BROKER_URL"] = url
        self.environment["QUEUE"] = queue

    def run(self, *command: str | Path) -> Ended:
        """Run a program to its end."""
        began_s = time.monotonic()
        ended = subprocess.run(
            list(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return Ended(ended.returncode, ended.stdout + ended.stderr, time.monotonic() - began_s)

    def leveret(self, *arguments: str) -> Ended:
        """Run ``leveret``."""
        return self.run(PROGRAM, *arguments)

    def worker(self) -> Ended:
        """Run a worker that is expected to end by itself."""
        return self.leveret("worker", "--app=tasks:app", "--concurrency=1")

    def python(self, program: str) -> Ended:
        """Run a program of the user's."""
        return self.run(sys.executable, "-c", program)

    def call(self, expression: str, error: str) -> Ended:
        """Run a program that prints the error of this name that the expression must raise."""
        return self.python(
            "from tasks import *\nfrom leveret import *\n"
            f"try:\n    {expression}\nexcept {error} as error:\n    print('error:', error)\n"
        )

    def start_worker(self, app: str = "tasks:app", *, awaiting: str = "is ready") -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is ready, or says something else."""
        command: list[str | Path] = [PROGRAM, "worker", f"--app={app}", "--concurrency=1"]
        worker = self._worker = start_process(command, log=self.log, environment=self.environment, folder=self.folder)
        wait_until(lambda: awaiting in last_lines(self.log) or worker.poll() is not None, 20, f"the worker to say {awaiting!r}")
        assert worker.poll() is None, last_lines(self.log)
        return worker

    def close(self) -> None:
        """End what was started."""
        if self._worker is not None:
            stop_process(self._worker, grace_s=5.0)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give a user's folder where nothing is configured."""
    shop = Shop(tmp_path)
    yield shop
    shop.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def in_shop(shop: Shop, source: str) -> None:
    """Add to the user's module."""
    with (shop.folder / "tasks.py").open("a") as file:
        file.write(source)


# ------------------------------------------------------------------------------------------------ the command line


def missing_module(shop: Shop) -> tuple[str, ...]:
    """Name a module that is not there."""
    return ("worker", "--app=taks:app")


def missing_app(shop: Shop) -> tuple[str, ...]:
    """Name an app that is not there."""
    return ("worker", "--app=tasks:ap")


def broken_import(shop: Shop) -> tuple[str, ...]:
    """Have the module import what is not there."""
    in_shop(shop, "import nonsense_package\n")
    return ("worker", "--app=tasks:app")


def unknown_setting(shop: Shop) -> tuple[str, ...]:
    """Set what is not there."""
    in_shop(shop, "app.conf.task_ack_late = True\n")
    return ("worker", "--app=tasks:app")


def nonsense_url(shop: Shop) -> tuple[str, ...]:
    """Name a broker of another family."""
    shop.use("redis://me:secret@127.0.0.1")
    return ("worker", "--app=tasks:app")


def unreachable_broker(shop: Shop) -> tuple[str, ...]:
    """Name a broker where none is."""
    shop.use(f"amqp://me:secret@127.0.0.1:{free_port()}/")
    return ("worker", "--app=tasks:app")


def unusable_home(shop: Shop) -> tuple[str, ...]:
    """Have a file where the local broker's folder would be."""
    (shop.folder / "home").touch()
    return ("worker", "--app=tasks:app")


def unusable_data(shop: Shop) -> tuple[str, ...]:
    """Have a file on the way to the broker's folder."""
    (shop.folder / "file").touch()
    return ("broker", "--port=0", "--data=file/data")


def foreign_address(shop: Shop) -> tuple[str, ...]:
    """Listen on an address of nobody (RFC 5737)."""
    return ("broker", "--host=192.0.2.1", "--data=data")


MISTAKES: list[tuple[Callable[[Shop], tuple[str, ...]], str]] = [
    (missing_module, "there is no module taks in the current folder .*; did you mean tasks\\?"),
    (missing_app, "module tasks has no attribute 'ap'; write --app=tasks:app"),
    (broken_import, r"importing tasks failed: ModuleNotFoundError: No module named 'nonsense_package' \(tasks\.py:\d+\)"),
    (unknown_setting, r"there is no setting 'task_ack_late'; did you mean 'task_acks_late'\? \(tasks\.py:\d+\)"),
    (nonsense_url, r"LEVERET_BROKER_URL cannot be used: .*amqp:// or amqps://, is expected, not 'redis'"),
    (
        unreachable_broker,
        r"amqp://me:\*\*\*@127\.0\.0\.1:\d+/%2F: Connection refused \(does a broker run there\?.* LEVERET_BROKER_URL",
    ),
    (unusable_home, r"home/results/shop\.sqlite cannot be opened for writing: .*; set LEVERET_HOME"),
    (unusable_data, "cannot make the data folder file/data: Not a directory; choose one that you may write to"),
    (foreign_address, r"cannot listen on 192\.0\.2\.1:5672: .*; --host is to be an address or a name of this machine"),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
def test_a_mistake_is_one_message_and_a_traceback_on_demand(
    shop: Shop, mistake: Callable[[Shop], tuple[str, ...]], words: str
) -> None:
    """Exit code 1 and one message that says what to do; ``leveret --traceback`` shows where it came from, too."""
    command = mistake(shop)
    ended = shop.leveret(*command)
    assert ended.exit_code == 1
    assert re.search(words, ended.message), ended.message
    assert ended.said.strip() == ended.message
    asked = shop.leveret("--traceback", *command)
    assert asked.exit_code == 1
    assert "Traceback (most recent call last):" in asked.said
    assert re.search(words, asked.said)
    for each in (ended, asked):
        assert "secret" not in each.said


@pytest.mark.parametrize(
    "command",
    [("worker", "--app=tasks:app", "--pool=nonsense"), ("worker",), ("wroker",), ("broker", "--port=http"), ("broker", "stat")],
    ids=" ".join,
)
def test_a_wrong_command_line_says_where_help_is(shop: Shop, command: tuple[str, ...]) -> None:
    """Exit code 2, as everywhere, and the way to ``--help``; nothing was started."""
    ended = shop.leveret(*command)
    assert ended.exit_code == 2
    assert re.search(r"Try 'leveret( \w+)? --help' for help\.", ended.said)
    assert "Traceback" not in ended.said
    assert not (shop.folder / "home").exists()
    assert not (shop.folder / "leveret-data").exists()


def test_an_app_that_waits_for_a_task_while_it_is_imported_is_told_so(shop: Shop, broker: Broker) -> None:
    """A call at the end of the module waits for a worker that waits for the module: it says so, and Ctrl-C ends it."""
    shop.use(broker.url, broker.name("shop"))
    in_shop(shop, "add.delay(1, 2).get()\n")
    worker = shop.start_worker(awaiting="is still being imported after 5 s: does a module of it wait for something")
    assert stop_process(worker, grace_s=8, first_signal=signal.SIGINT) == 0


# ------------------------------------------------------------------------------------------------ reaching the broker


def test_a_broker_that_does_not_answer_is_given_up_in_time(shop: Shop, silent_port: int) -> None:
    """Worker and producer end within the connect timeout, with the URL and without its password."""
    shop.use(f"amqp://me:secret@127.0.0.1:{silent_port}/")
    for ended in (shop.worker(), shop.call("add.delay(1, 2)", "BrokerUnavailable")):
        assert f"amqp://me:***@127.0.0.1:{silent_port}/" in ended.message
        assert "secret" not in ended.said
        assert ended.took_s < CONNECT_TIMEOUT_S + START_S


def test_an_unreachable_broker_is_the_producers_error_too(shop: Shop) -> None:
    """The program that sends gets the same words, as an exception of its own."""
    shop.use(f"amqp://me:secret@127.0.0.1:{free_port()}/")
    ended = shop.call("add.delay(1, 2)", "BrokerUnavailable")
    assert re.search(r"amqp://me:\*\*\*@127\.0\.0\.1:\d+/%2F: Connection refused \(does a broker run there\?", ended.message)
    assert "secret" not in ended.said
    assert ended.took_s < CONNECT_TIMEOUT_S + START_S
    uncaught = shop.python("from tasks import add; add.delay(1, 2)")
    assert uncaught.exit_code == 1
    assert uncaught.said.splitlines()[-1].startswith(
        "leveret.errors.BrokerUnavailable: cannot connect to the broker: amqp://me:***@"
    )


def test_a_wrong_password_is_told_to_both(shop: Shop, broker: Broker) -> None:
    """Who logs in wrongly hears 403 and what to check; the password that was tried is shown nowhere."""
    shop.use(broker.url.replace("guest:guest@", "guest:not-secret@"))
    worker, producer = shop.worker(), shop.call("add.delay(1, 2)", "BrokerUnavailable")
    assert worker.exit_code == 1
    for ended in (worker, producer):
        assert "403 ACCESS_REFUSED - Login was refused" in ended.message
        assert "(check the user and the password)" in ended.message
        assert "not-secret" not in ended.said


def test_an_unknown_virtual_host_is_told_to_both(shop: Shop, broker: Broker) -> None:
    """A vhost that does not exist is 530, and where in the URL it stands."""
    shop.use(f"{broker.url.rpartition('/')[0]}/nowhere")
    worker, producer = shop.worker(), shop.call("add.delay(1, 2)", "BrokerUnavailable")
    assert worker.exit_code == 1
    for ended in (worker, producer):
        assert "530 NOT_ALLOWED" in ended.message
        assert "nowhere" in ended.message
        assert "(check the virtual host" in ended.message


# ------------------------------------------------------------------------------------------------ calls


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            "add.delay(1)",
            "ArgumentsError",
            r"arguments do not fit tasks\.add\(x: int, y: int\) -> int: missing a required argument",
        ),
        ("add.delay(1, 2, 3)", "ArgumentsError", "too many positional arguments"),
        ("add.delay(1, z=2)", "ArgumentsError", "missing a required argument: 'y'"),
        ("add.delay(1, 'two')", "ArgumentsError", "'y': Expected `int`, got `str`"),
        ("add.delay(1, object())", "EncodingError", r"argument 'y' of tasks\.add.* cannot be sent: object has no JSON form"),
        ("opaque.apply_async(headers={'x': 'y' * 200_000})", "LeveretError", "properties take 200.* frames hold 131064"),
        ("app.task(name='any')(lambda x: x).delay('x' * 140_000_000)", "EncodingError", "134,217,728 are the most; keep them in"),
        ("add.apply_async((1, 2), countdown='soon')", "ConfigurationError", "countdown must be seconds from now"),
        ("add.apply_async((1, 2), cuontdown=1)", "TypeError", "no option 'cuontdown'; it has countdown"),
        ("app.conf.task_ack_late = True", "ConfigurationError", "did you mean 'task_acks_late'"),
    ],
)
def test_a_call_that_cannot_be_sent_sends_nothing(shop: Shop, broker: Broker, call: str, error: str, words: str) -> None:
    """The caller hears what is wrong before anything is sent: the queue has the message it had before, and no other."""
    queue = broker.name("shop")
    shop.use(broker.url, queue)
    assert shop.python("from tasks import add; add.delay(1, 2)").exit_code == 0
    ended = shop.call(call, error)
    assert re.search(words, ended.message), ended.message
    assert ready_count(broker.url, queue) == 1


def test_a_result_that_cannot_be_stored_is_a_failure_with_words(shop: Shop, broker: Broker) -> None:
    """The caller and the log learn which task, which type and where; the worker goes on, and no message is left."""
    queue = broker.name("shop")
    shop.use(broker.url, queue)
    shop.start_worker()
    ended = shop.call("opaque.delay().get(timeout=20)", "EncodingError")
    words = "the result of tasks.opaque cannot be stored: object has no JSON form (at ['orders'][0])"
    assert ended.message == f"error: {words}"
    wait_until(lambda: words in last_lines(shop.log), 5, "the worker to log it")
    assert "Traceback" not in last_lines(shop.log)
    assert shop.python("from tasks import add; assert add.delay(1, 2).get(timeout=20) == 3").exit_code == 0
    wait_until(lambda: ready_count(broker.url, queue) == 0, 5, "the queue to be empty")


def test_an_exception_that_utf8_cannot_carry_ends_nothing(shop: Shop, broker: Broker) -> None:
    """A file name that is not UTF-8 in an exception's text: the caller gets the exception, and no process dies of it."""
    shop.use(broker.url, broker.name("shop"))
    shop.start_worker()
    ended = shop.call("unreadable_name.delay().get(timeout=20)", "FileNotFoundError")
    assert r"'caf\\udce9'" in ended.message
    said = last_lines(shop.log)
    assert "died" not in said
    assert "in unreadable_name" in said


def test_a_task_that_nobody_has_is_found_in_the_parking_queue(shop: Shop, broker: Broker) -> None:
    """The caller hears what to look at; its message waits, and the task runs once it is moved back to a worker that has it."""
    queue = broker.name("shop")
    shop.use(broker.url, queue)
    (shop.folder / "elsewhere.py").write_text(
        "from tasks import app\n\n\n@app.task\ndef double(x: int) -> int:\n    return 2 * x\n"
    )
    worker = shop.start_worker()
    ended = shop.python(
        "from elsewhere import double\nfrom leveret import NotRegistered\nresult = double.delay(21)\nprint(result.id)\n"
        "try:\n    result.get(timeout=20)\nexcept NotRegistered as error:\n    print('error:', error)\n"
    )
    assert "has no task named 'elsewhere.double'; is the module that defines it imported where the app is?" in ended.message
    wait_until(lambda: f"kept in queue {queue}.parked" in last_lines(shop.log), 5, "the worker to log it")
    stop_process(worker, grace_s=10)
    with open_connection(broker.url) as connection:
        channel = connection.channel()
        method, properties, body = channel.basic_get(f"{queue}.parked")
        assert method is not None
        assert properties.correlation_id == ended.said.split()[0]
        channel.queue_declare("done." + queue)
        properties.reply_to = "done." + queue
        channel.basic_publish("", queue, body, properties)
        channel.basic_ack(method.delivery_tag)
        shop.log.unlink()
        shop.start_worker("elsewhere:app")
        answer = wait_until(lambda: channel.basic_get("done." + queue, auto_ack=True)[2], 20, "the task to have run")
        channel.queue_delete("done." + queue)
    assert b'"result":42' in answer


# ------------------------------------------------------------------------------------------------ queues


def test_a_queue_that_exists_with_other_arguments_is_explained_and_kept(shop: Shop, broker: Broker) -> None:
    """Worker and producer hear which argument of which queue, and what to do; the queue and its messages stay."""
    queue = broker.name("shop")
    with open_connection(broker.url) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 5})
        channel.basic_publish("", queue, b"precious")
        shop.use(broker.url, queue)
        worker, producer = shop.worker(), shop.call("add.delay(1, 2)", "LeveretError")
        assert worker.exit_code == 1
        for ended in (worker, producer):
            assert "406 PRECONDITION_FAILED - inequivalent arg 'x-max-priority'" in ended.message
            assert queue in ended.message
            assert "declare it as it is (task_queues, task_queue_max_priority), or delete it once it is empty" in ended.message
            assert "Traceback" not in ended.said
        assert channel.basic_get(queue, auto_ack=True)[2] == b"precious"


# ------------------------------------------------------------------------------------------------ a broker's folder


def test_the_folder_of_a_running_broker_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    """A second broker on it ends with one message; the first goes on and keeps what it has."""
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    try:
        with open_connection(broker.url()) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("orders", durable=True)
            channel.basic_publish("", "orders", b"one")
            for options, words in [
                (("--port=0", f"--data={broker.folder / 'data'}"), "is in use by a running broker; stop that one, or choose"),
                (
                    (f"--port={broker.port}", "--data=other"),
                    f"port {broker.port} on 127.0.0.1 is in use by another program; choose",
                ),
            ]:
                ended = shop.leveret("broker", *options)
                assert ended.exit_code == 1
                assert words in ended.message
                assert ended.said.strip() == ended.message
                assert "Traceback" in shop.leveret("--traceback", "broker", *options).said
            channel.basic_publish("", "orders", b"two")
        assert ready_count(broker.url(), "orders") == 2
    finally:
        broker.stop()
