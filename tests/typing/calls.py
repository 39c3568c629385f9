"""What must type-check, and with which types: read by mypy, never run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

from leveret import App, Exchange, Queue, Result, RetryPolicy, TaskContext, as_completed

app = App("typing")
app.conf.task_acks_late = True
app.conf.task_queues = [Queue("tasks", Exchange("tasks"), routing_key="tasks", queue_arguments={"x-max-priority": 10})]
app.conf.task_routes = {"shop.*": "tasks"}
app.conf.update(worker_prefetch_multiplier=1)


@app.task
def add(x: int, y: int = 0) -> int:
    """Take positional and optional arguments."""
    return x + y


@app.task(queue="tasks", retry=RetryPolicy(max=3, on=(OSError,)))
async def fetch(url: str, *, timeout_s: float = 1) -> bytes:
    """Be a coroutine function."""
    return url.encode()


@app.task(bind=True, max_retries=5)
def report(self: TaskContext, day: str) -> str:
    """Take the context first, which callers do not pass."""
    if self.request.retries < 5:
        raise self.retry(exc=ValueError(day), countdown=1)
    return day


@app.task(bind=True)
async def stream(self: TaskContext, day: str) -> float:
    """Be both."""
    return 1.0


assert_type(add(1), int)
to_await = assert_type(fetch("x"), Coroutine[Any, Any, bytes])
assert_type(report("monday"), str)

assert_type(add.delay(1, y=2), Result[int])
assert_type(fetch.delay("x", timeout_s=2), Result[bytes])
assert_type(report.delay("monday"), Result[str])
assert_type(stream.delay("monday"), Result[float])

assert_type(add.apply_async((1,), countdown=3, priority=5, headers={"tenant": "eu"}), Result[int])
assert_type(fetch.apply_async(("x",), {"timeout_s": 1}), Result[bytes])

assert_type(add.delay(1).get(timeout=1), int)
assert_type(fetch.delay("x").get(), bytes)
assert_type([result.get() for result in as_completed([add.delay(1), add.delay(2)], timeout=3)], list[int])
