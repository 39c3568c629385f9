"""The app whose workers the integration tests run; the environment says where its broker is and how it is set."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Never

from leveret import App, Queue, RetryPolicy, TaskContext

app = App("jobs")
app.conf.task_default_queue = os.environ["JOBS_QUEUE"]
app.conf.update(json.loads(os.environ.get("JOBS_SETTINGS", "{}")))
if dead_letters := os.environ.get("JOBS_DEAD_LETTERS"):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
    app.conf.task_queues = [Queue(os.environ["JOBS_QUEUE"], queue_arguments=arguments)]


@app.task(name="jobs.add")
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@app.task(name="jobs.hold", bind=True)
def hold(self: TaskContext, folder: str, name: str) -> int:
    """Say which process runs it, and wait until the test lets it go; return how many processes have died of it before."""
    crashes = self.request.crashes
    Path(folder, f"{name}.{crashes}.new").write_text(str(os.getpid()))
    Path(folder, f"{name}.{crashes}.new").rename(Path(folder, f"{name}.{crashes}"))
    while not Path(folder, f"{name}.go").exists():
        time.sleep(0.002)
    return crashes


@app.task(name="jobs.note")
def note(folder: str, name: str) -> None:
    """Write a line into a file, so that runs can be counted and their order seen."""
    with open(Path(folder, "notes"), "a") as file:
        file.write(f"{name}\n")


@app.task(name="jobs.leave")
def leave(code: int) -> None:
    """Take the whole process along."""
    os._exit(code)


@app.task(name="jobs.segfault")
def segfault() -> None:
    """Die as a broken C extension does."""
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task(name="jobs.flaky", bind=True, retry=RetryPolicy(max=2, on=(ValueError,), backoff_s=0.1, jitter=False))
def flaky(self: TaskContext, failures: int) -> int:
    """Fail so many times, then return how often it was retried."""
    if self.request.retries < failures:
        raise ValueError(f"try {self.request.retries}")
    return self.request.retries


@app.task(name="jobs.early", acks_late=False)
def early(folder: str, name: str) -> None:
    """Say that it runs, and wait for ever."""
    Path(folder, name).write_text(str(os.getpid()))
    signal.pause()


@app.task(name="jobs.add_all")
def add_all(count: int) -> int:
    """Send tasks, and wait for them."""
    results = [add.delay(number, 1) for number in range(count)]
    return sum(result.get(timeout=20) for result in results)


@app.task(name="jobs.depart")
def depart(word: str) -> Never:
    """Take leave of Python as a program does."""
    sys.exit(word)


@app.task(name="jobs.interrupt")
def interrupt() -> Never:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


@app.task(name="jobs.dive")
def dive() -> object:
    """Recurse without end."""
    return dive.function()


@app.task(name="jobs.count_up")
def count_up() -> Iterator[int]:
    """Return a generator."""
    yield 1


@app.task(name="jobs.turn_around")
def turn_around(text: str) -> str:
    """Return a text from its end to its beginning."""
    return text[::-1]


@app.task(name="jobs.fill")
def fill(size: int) -> str:
    """Return much."""
    return "x" * size


@app.task(name="jobs.say")
def say(text: str) -> None:
    """Print, without flushing."""
    print(text)  # noqa: T201 - the point of the task


@app.task(name="jobs.split")
def split() -> str:
    """Come back twice."""
    if not os.fork():
        return "copy"
    os.wait()
    return "original"


@app.task(name="jobs.leave_thread")
def leave_thread() -> int:
    """Leave a thread behind that never ends, and for which Python waits at its exit."""
    threading.Thread(target=threading.Event().wait).start()
    return threading.active_count()


@app.task(name="jobs.read")
def read() -> str:
    """Read what nobody types."""
    return sys.stdin.read()
