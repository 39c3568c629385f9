"""An app of Celery's, for a real Celery worker beside ours; the environment says where its broker is."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("celery_jobs", broker=os.environ["CELERY_JOBS_BROKER"], backend="rpc://")
app.conf.update(task_default_queue=os.environ["CELERY_JOBS_QUEUE"], worker_enable_remote_control=False)


@app.task(name="fleet.add", bind=True)
def add(self, x, y=0):  # type: ignore[no-untyped-def]  # as Celery's users write it
    """Return the sum and what the worker knows of the call."""
    return {"sum": x + y, "retries": self.request.retries, "tenant": self.request.headers and self.request.headers.get("tenant")}


@app.task(name="fleet.fail")
def fail(text):  # type: ignore[no-untyped-def]  # as Celery's users write it
    """Fail."""
    raise ValueError(text)
