"""The programs of examples/ that speak plain AMQP run on both brokers, as a user would start them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pika.exceptions import UnroutableError

from tests.support.brokers import Broker
from tests.support.pika_client import get_when_there, open_connection
from tests.support.processes import last_lines, start_process, stop_process
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"


class Program:
    """One example, running; what it prints can be waited for."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        """Start it."""
        self.name = name
        self._log = folder / f"{name}.log"
        self.process = start_process([sys.executable, EXAMPLES / f"{name}.py", url], log=self._log)

    @property
    def output(self) -> str:
        """Return all it has printed so far."""
        return self._log.read_text()

    def wait_for(self, text: str, *, count: int = 1, timeout_s: float = 30.0) -> None:
        """Return once it has printed a text that often."""

        def has_printed() -> bool:
            if self.output.count(text) >= count:
                return True
            assert self.process.poll() is None, f"{self.name} ended before it printed {text!r}:\n{last_lines(self._log)}"
            return False

        wait_until(has_printed, timeout_s, f"{self.name} to print {text!r} {count} times")

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=5.0)

    def stop(self) -> None:
        """End it in whatever way."""
        stop_process(self.process, grace_s=1.0)


@pytest.fixture
def start(broker: Broker, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Start examples against the test's broker; none outlives the test."""
    running: list[Program] = []

    def start_one(name: str) -> Program:
        running.append(Program(name, broker.url, tmp_path))
        return running[-1]

    yield start_one
    for program in running:
        program.stop()


def _run(name: str, broker: Broker) -> str:
    """Run an example to its end and return what it printed."""
    answer = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", broker.url], capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_simple_subscriber_does_what_the_simple_publisher_asks(broker: Broker, start: Callable[[str], Program]) -> None:
    """A job sent before the subscriber is there waits for it; one sent later is done at once; Ctrl-C ends it cleanly."""
    assert "sent" in _run("simple_publisher", broker)
    subscriber = start("simple_subscriber")
    subscriber.wait_for("processed {'task': 'cpu_bound', 'param': '1'}")
    _run("simple_publisher", broker)
    subscriber.wait_for("processed {'task': 'cpu_bound', 'param': '1'}", count=2)
    assert subscriber.interrupt() == 0


def test_advanced_publisher_reaches_who_has_bound_a_queue(broker: Broker) -> None:
    """Its messages go by routing key, and are dropped while no queue is bound."""
    _run("advanced_publisher", broker)
    with open_connection(broker.url) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "test_exchange", "standard_key")
        assert _run("advanced_publisher", broker).count("sent") == 3
        received = [get_when_there(channel, queue) for _ in range(2)]
    assert [message.body for message in received] == [b"queue:group", b"a message to standard_key"]
    assert {(message.properties.content_type, message.properties.delivery_mode) for message in received} == {("text/plain", 1)}


def test_reconnecting_consumer_survives_a_restart_of_the_broker(broker: Broker, start: Callable[[str], Program]) -> None:
    """Messages published before and after a restart of the broker arrive; Ctrl-C ends the consumer cleanly."""
    consumer = start("reconnecting_consumer")
    consumer.wait_for("consuming text")
    _publish_text(broker, b"before the restart")
    consumer.wait_for("before the restart")
    broker.server.restart()
    consumer.wait_for("consuming text", count=2)
    _publish_text(broker, b"after the restart")
    consumer.wait_for("after the restart")
    assert consumer.interrupt() == 0


def _publish_text(broker: Broker, body: bytes) -> None:
    """Publish to the consumer's exchange; it must have bound its queue by now."""
    with open_connection(broker.url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish("message", "example.text", body, mandatory=True)
        except UnroutableError:
            pytest.fail("the consumer says that it consumes, but no queue is bound for its messages")
