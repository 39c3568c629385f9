"""Exchanges, queues and bindings as values: kombu's notation, equality, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest

from leveret.amqp.topology import DEFAULT_EXCHANGE, Binding, Exchange, Queue
from leveret.errors import ConfigurationError


def test_kombu_notation_gives_queue_exchange_and_binding() -> None:
    """A queue written as for kombu keeps its exchange, its key and its arguments."""
    queue = Queue(
        "tasks",
        Exchange("tasks"),
        routing_key="tasks",
        queue_arguments={"x-max-priority": 10},
    )
    assert (
        queue.name,
        queue.exchange.name,
        queue.exchange.type,
        queue.routing_key,
    ) == ("tasks", "tasks", "direct", "tasks")
    assert (queue.durable, queue.exclusive, queue.auto_delete) == (True, False, False)
    assert queue.queue_arguments == {"x-max-priority": 10}
    assert queue.max_priority == 10
    assert queue.all_bindings == (Binding(Exchange("tasks"), "tasks"),)


def test_an_exchange_may_be_given_by_name() -> None:
    """A text where an exchange is expected names a durable direct exchange."""
    assert Queue("tasks", "tasks", "tasks") == Queue("tasks", Exchange("tasks"), "tasks")


def test_a_queue_without_exchange_lives_on_the_default_exchange() -> None:
    """Without an exchange the routing key is the queue's name and nothing is bound."""
    queue = Queue("mail")
    assert queue.exchange is DEFAULT_EXCHANGE
    assert queue.routing_key == "mail"
    assert queue.all_bindings == ()


def test_further_bindings_come_after_the_first() -> None:
    """A queue may be bound more than once."""
    logs = Exchange("logs", type="topic")
    queue = Queue("audit", logs, "billing.#", bindings=[Binding(logs, "login.*")])
    assert [binding.routing_key for binding in queue.all_bindings] == [
        "billing.#",
        "login.*",
    ]
    assert Queue("mail", bindings=[Binding(logs, "mail")]).all_bindings == (Binding(logs, "mail"),)


def test_max_priority_and_its_argument_are_one_thing() -> None:
    """Either way of writing the highest priority gives the same queue."""
    assert Queue("tasks", max_priority=10) == Queue("tasks", queue_arguments={"x-max-priority": 10})
    assert Queue("tasks", max_priority=10).queue_arguments == {"x-max-priority": 10}
    assert Queue("tasks", max_priority=10, queue_arguments={"x-max-priority": 10}).max_priority == 10


def test_equal_queues_are_remembered_once() -> None:
    """Queues that a broker would not tell apart are one element of a set; those with other arguments are another."""
    one = Queue(
        "tasks",
        Exchange("tasks"),
        "tasks",
        queue_arguments={"x-expires": 1000, "x-list": [1, {"a": 2}]},
    )
    same = Queue(
        "tasks",
        "tasks",
        "tasks",
        queue_arguments={"x-list": [1, {"a": 2}], "x-expires": 1000},
    )
    other = Queue("tasks", "tasks", "tasks", queue_arguments={"x-expires": 2000})
    assert len({one, same, other}) == 2
    assert copy.copy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_the_callers_arguments_are_copied() -> None:
    """Changing a dictionary after it was given does not change the queue."""
    arguments = {"x-expires": 1000}
    queue = Queue("tasks", queue_arguments=arguments)
    arguments["x-expires"] = 5
    assert queue.queue_arguments == {"x-expires": 1000}


def test_values_are_frozen() -> None:
    """An attribute cannot be set."""
    with pytest.raises(AttributeError):
        Queue("tasks").name = "other"  # type: ignore[misc]  # that it cannot be assigned is what is tested
    with pytest.raises(AttributeError):
        Exchange("tasks").durable = False  # type: ignore[misc]  # as above


def test_names_are_measured_in_bytes() -> None:
    """255 bytes of UTF-8 fit, 256 do not, whatever the number of characters."""
    assert Queue("q" * 255).name == "q" * 255
    for make in (
        lambda: Queue("é" * 128),
        lambda: Exchange("é" * 128),
        lambda: Queue("q", "x", "é" * 128),
    ):
        with pytest.raises(ConfigurationError, match=r"256 bytes; AMQP 0-9-1 takes 255"):
            make()
    with pytest.raises(ConfigurationError, match="routing key"):
        Binding(Exchange("x"), "k" * 256)


@pytest.mark.parametrize("type_", ["direct", "fanout", "topic", "headers", "x-consistent-hash"])
def test_types_of_amqp_and_of_plugins_are_taken(type_: str) -> None:
    """The four types of AMQP and any that begins with x- are taken."""
    assert Exchange("x", type=type_).type == type_


def test_an_unknown_type_is_refused() -> None:
    """The message names the types there are."""
    with pytest.raises(ConfigurationError, match=r"'fan-out'; known are direct, fanout, topic, headers"):
        Exchange("x", type="fan-out")


@pytest.mark.parametrize("priority", [0, 256, -1, True, "10", 2.5])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    """x-max-priority is a whole number from 1 to 255."""
    with pytest.raises(ConfigurationError, match="whole number from 1 to 255"):
        Queue("tasks", queue_arguments={"x-max-priority": priority})


def test_contradictions_are_refused() -> None:
    """What no broker could do as written is refused when it is written."""
    with pytest.raises(ConfigurationError, match="give one"):
        Queue("tasks", max_priority=5, queue_arguments={"x-max-priority": 10})
    with pytest.raises(ConfigurationError, match="quorum"):
        Queue("tasks", max_priority=5, queue_arguments={"x-queue-type": "quorum"})
    with pytest.raises(ConfigurationError, match="needs a name"):
        Queue("")
    with pytest.raises(ConfigurationError, match="by its name only"):
        Queue("tasks", routing_key="other")
    with pytest.raises(ConfigurationError, match="default exchange"):
        Binding(Exchange(), "tasks")
    with pytest.raises(ConfigurationError, match="needs a name"):
        Exchange(type="topic")
