"""From a task to an exchange, a routing key and the queues on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.topology import Exchange, Queue
from leveret.errors import ConfigurationError
from leveret.tasks.routing import DELAY_LEASE_S, DELAY_S_MAX, Route, delay_queue, queue_name, route_to

ROUTES = {"shop.*": "shop", "shop.mail": "mail", "*.report": "reports"}


@pytest.mark.parametrize(
    ("task", "asked", "option", "queue"),
    [
        ("shop.mail", "now", "own", "now"),
        ("shop.mail", None, "own", "own"),
        ("shop.mail", None, None, "mail"),
        ("shop.report", None, None, "shop"),
        ("audit.report", None, None, "reports"),
        ("Shop.mail", None, None, "celery"),
    ],
)
def test_the_nearest_word_names_the_queue(task: str, asked: str | None, option: str | None, queue: str) -> None:
    """The call before the task, the task before the routes, an exact route before globs, globs in order, then the default."""
    assert queue_name(task, asked=asked, option=option, routes=ROUTES, default="celery") == queue


def test_a_plain_queue_is_reached_by_its_name() -> None:
    """A name that is not among the app's queues is a durable queue on the default exchange."""
    assert route_to("celery", {}, max_priority=None) == Route("", "celery", Queue("celery"))
    assert route_to("celery", {}, max_priority=9).queue.queue_arguments == {"x-max-priority": 9}


def test_a_queue_on_a_direct_exchange_is_reached_by_its_name_too() -> None:
    """As in Celery: nobody else who is bound to the exchange gets the message."""
    queue = Queue("tasks", Exchange("tasks"), routing_key="tasks")
    assert route_to("tasks", {"tasks": queue}, max_priority=9) == Route("", "tasks", queue)


def test_a_queue_on_another_exchange_is_reached_through_it() -> None:
    """Topic and fanout exchanges get the message under the queue's routing key."""
    queue = Queue("audit", Exchange("logs", type="topic"), routing_key="shop.audit")
    assert route_to("audit", {"audit": queue}, max_priority=None) == Route("logs", "shop.audit", queue)


def test_a_delay_queue_hands_over_when_it_is_time() -> None:
    """It expires its messages into the target, and itself a while after it was last declared."""
    assert delay_queue("tasks", 1.5) == Queue(
        "tasks.delay.1500",
        queue_arguments={
            "x-message-ttl": 1500,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "tasks",
            "x-expires": 1500 + 1000 * int(DELAY_LEASE_S),
        },
    )


@pytest.mark.parametrize(
    ("delay_s", "delay_ms"),
    [(0.0001, 1), (0.099, 99), (0.1, 100), (0.1001, 110), (1, 1000), (1.001, 1100), (2.675, 2700), (99.5, 100_000)],
)
def test_delays_are_rounded_up_to_two_digits(delay_s: float, delay_ms: int) -> None:
    """Never early; and floats that are nearly whole milliseconds are not pushed to the next."""
    assert delay_queue("q", delay_s).queue_arguments["x-message-ttl"] == delay_ms


@given(st.floats(min_value=0.001, max_value=DELAY_S_MAX))
def test_a_delay_is_late_by_less_than_a_tenth(delay_s: float) -> None:
    """At least the delay, less than 10 % or one millisecond more, two digits and zeros, within what a broker takes."""
    ttl_ms = delay_queue("q", delay_s).queue_arguments["x-message-ttl"]
    assert isinstance(ttl_ms, int)
    assert delay_s * 1000 - 0.001 <= ttl_ms < max(delay_s * 1000 * 1.1, delay_s * 1000 + 1)
    assert len(str(ttl_ms).rstrip("0")) <= 2
    assert ttl_ms + DELAY_LEASE_S * 1000 < 2**32


@pytest.mark.parametrize("delay_s", [0, -1, DELAY_S_MAX + 1, float("nan")])
def test_a_delay_that_no_queue_can_keep_is_refused(delay_s: float) -> None:
    """One hop takes up to 48 days."""
    with pytest.raises(ConfigurationError, match="up to 48 days"):
        delay_queue("q", delay_s)
