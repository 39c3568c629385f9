"""The app of the task benchmark: a task that does nothing."""

from __future__ import annotations

from leveret import App

app = App("bench")
app.conf.task_default_queue = "leveret-bench-tasks"


@app.task(ignore_result=True)
def noop(text: str) -> None:
    """Do nothing."""


@app.task
def echo(text: str) -> str:
    """Return the argument."""
    return text
