"""What a child tells of its app, and the pools' names."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest

from leveret import App, Exchange, Queue
from leveret.amqp.topology import Binding
from leveret.errors import ConfigurationError
from leveret.worker.banner import banner
from leveret.worker.child import facts_of
from leveret.worker.config import default_concurrency, executor_of
from leveret.worker.ready import AppFacts, Policy, QueueFacts


def test_a_queue_survives_the_journey_with_every_type_of_argument() -> None:
    """Queues, exchanges and bindings arrive as they were, their field tables included."""
    queue = Queue(
        "tasks",
        Exchange("tasks", type="topic", durable=False, auto_delete=True, arguments={"alternate-exchange": "other"}),
        routing_key="a.#",
        durable=False,
        exclusive=True,
        auto_delete=True,
        queue_arguments={"x-max-priority": 10, "d": Decimal("1.5"), "t": datetime(2026, 1, 1, tzinfo=UTC), "l": [1, {"b": b"x"}]},
        binding_arguments={"x-match": "any"},
        bindings=[Binding(Exchange("more"), "key", {"k": None})],
    )
    packed = msgspec.msgpack.encode(QueueFacts.of(queue))
    arrived = msgspec.msgpack.decode(packed, type=QueueFacts).queue()
    assert arrived == queue
    assert arrived.max_priority == 10


def test_the_facts_are_what_the_app_says() -> None:
    """Settings, queues and tasks arrive; only tasks whose own options differ have a policy of their own."""
    app = App("shop", broker="amqp://host/")
    app.conf.update(task_crash_limit=5, worker_concurrency=3, broker_heartbeat=7, task_default_queue="orders")

    @app.task(name="plain")
    def plain() -> None:
        """Do nothing."""

    @app.task(name="early", acks_late=False, queue="mail")
    def early() -> None:
        """Do nothing."""

    facts = msgspec.msgpack.decode(msgspec.msgpack.encode(facts_of(app)), type=AppFacts)
    assert (facts.app_name, facts.broker_url, facts.crash_limit, facts.concurrency) == ("shop", "amqp://host/", 5, 3)
    assert facts.heartbeat_s == 7
    assert facts.tasks == ["early", "plain"]
    assert {queue.name for queue in facts.queues} == {"orders", "mail"}
    assert facts.policy == Policy(acks_late=True, acks_failures=False, reruns_when_lost=True)
    assert facts.policies == {"early": Policy(acks_late=False, acks_failures=False, reruns_when_lost=True)}


def test_a_workers_own_heartbeat_goes_before_the_apps() -> None:
    """``worker_heartbeat`` is the worker's, ``broker_heartbeat`` everybody's; 0 is a value."""
    app = App("shop")
    app.conf.update(broker_heartbeat=30, worker_heartbeat=0)
    assert facts_of(app).heartbeat_s == 0


@pytest.mark.parametrize("pool", ["process", "prefork", "processes"])
def test_the_process_pool_has_its_other_names(pool: str) -> None:
    """Celery's name of it means the same."""
    assert executor_of(pool) == "serial"


@pytest.mark.parametrize(
    ("pool", "said"),
    [("solo", "not available yet"), ("threads", "thread pool is not"), ("x", "no pool named 'x'; use --pool=process")],
)
def test_other_pools_are_refused_in_words(pool: str, said: str) -> None:
    """What is not there is not pretended."""
    with pytest.raises(ConfigurationError, match=said):
        executor_of(pool)


def test_the_default_concurrency_is_a_number_of_processors() -> None:
    """At least one."""
    assert default_concurrency() >= 1


def test_the_banner_shortens_long_lists() -> None:
    """Twelve names are shown, the rest counted."""
    lines = banner(
        hostname="w@h",
        app="shop",
        broker="amqp://h/",
        results="rpc",
        queues=["celery"],
        pool="process",
        concurrency=2,
        tasks=[f"t{number}" for number in range(15)],
    )
    assert lines[0] == "w@h is ready"
    assert lines[-1].endswith("t11 and 3 more")
