"""The calls that declare a queue with all it needs."""

from __future__ import annotations

from leveret.amqp.methods import exchange, queue
from leveret.amqp.topology import Binding, Exchange, Queue
from leveret.client.declarations import declarations


def test_a_queue_on_the_default_exchange_needs_one_call() -> None:
    """The default exchange is not declared, and nothing is bound to it."""
    assert declarations([Queue("mail", max_priority=5)]) == [queue.Declare("mail", durable=True, arguments={"x-max-priority": 5})]


def test_exchanges_come_before_queues_and_bindings_after() -> None:
    """What a binding names exists when it is made."""
    logs = Exchange("logs", type="topic", durable=False, arguments={"alternate-exchange": "rest"})
    calls = declarations([Queue("audit", logs, "billing.#", exclusive=True, auto_delete=True, durable=False)])
    assert calls == [
        exchange.Declare("logs", "topic", arguments={"alternate-exchange": "rest"}),
        queue.Declare("audit", exclusive=True, auto_delete=True),
        queue.Bind("audit", "logs", "billing.#"),
    ]


def test_an_exchange_is_declared_once() -> None:
    """Queues that share exchanges do not declare them again; every binding is made, with its arguments."""
    logs, rest = Exchange("logs", type="topic"), Exchange("rest", type="headers")
    calls = declarations(
        [
            Queue("a", logs, "a"),
            Queue("b", logs, "b", bindings=[Binding(rest, arguments={"x-match": "any"}), Binding(logs, "c")]),
        ]
    )
    assert [call for call in calls if isinstance(call, exchange.Declare)] == [
        exchange.Declare("logs", "topic", durable=True),
        exchange.Declare("rest", "headers", durable=True),
    ]
    assert [call for call in calls if isinstance(call, queue.Bind)] == [
        queue.Bind("a", "logs", "a"),
        queue.Bind("b", "logs", "b"),
        queue.Bind("b", "rest", "", arguments={"x-match": "any"}),
        queue.Bind("b", "logs", "c"),
    ]
