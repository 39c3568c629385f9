"""What must not type-check: each line with a mistake names mypy's code for it. Read by mypy, never run."""

from __future__ import annotations

from leveret import App, TaskContext

app = App("typing")


@app.task
def add(x: int, y: int = 0) -> int:
    """Take numbers."""
    return x + y


@app.task
async def fetch(url: str) -> bytes:
    """Be a coroutine function."""
    return url.encode()


@app.task(bind=True)
def report(self: TaskContext, day: str) -> str:
    """Take the context first."""
    return day


add.delay("1")  # E: arg-type
add.delay(1, 2, 3)  # E: call-arg
add.delay(z=1)  # E: call-arg
fetch.delay()  # E: call-overload
fetch.delay(3)  # E: call-overload
report.delay(None, "monday")  # E: arg-type call-arg
add.delay(1).get() + "1"  # E: operator
add.apply_async((1,), cuntdown=3)  # E: call-arg
add.apply_async((1,), countdown="soon")  # E: arg-type
app.task(que="tasks")  # E: call-overload
app.task(priority="high")  # E: call-overload
app.conf.task_acks_late = "yes"  # E: assignment
app.conf.task_ack_late = True  # E: attr-defined


@app.task(bind=True)  # E: arg-type
def unbound(day: str) -> str:
    """Take no context."""
    return day
