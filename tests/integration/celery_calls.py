"""A producer of Celery's, as a program: calls the tasks of ``jobs.py`` and prints what comes of them, as one JSON object.

A process of its own, because Celery leaves sockets for the interpreter's end to close.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

from celery import Celery

_PATIENCE_S = 30.0


def main() -> None:
    """Make the calls."""
    url, queue = sys.argv[1:]
    app = Celery("producer", broker=url, backend="rpc://")
    found: dict[str, object] = {}

    def call(name: str, *args: object, **options: object) -> object:
        result = app.send_task(name, args, queue=queue, **options)
        try:
            return result.get(timeout=_PATIENCE_S)
        except ValueError as error:
            return [type(error).__name__, str(error), "jobs.py" in result.traceback]

    found["value"] = call("jobs.add", 2, 3)
    found["exception"] = call("jobs.flaky", 9)
    started_s = time.monotonic()
    found["delayed"] = call("jobs.add", 1, 1, countdown=1)
    found["delay_s"] = time.monotonic() - started_s
    app.send_task("jobs.add", (1, 1), queue=queue, expires=datetime(2020, 1, 1, tzinfo=UTC))
    found["after one that has expired"] = call("jobs.add", 4, 4)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
