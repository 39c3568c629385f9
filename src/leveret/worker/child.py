"""The entry point of a worker's child, ``python -m leveret.worker.child HANDLES OPTIONS``: imports the app and runs its tasks.

Keep its imports light: they are most of the time between ``leveret worker`` and the first task.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Mapping
from typing import Final

import msgspec

from leveret.app.app import App
from leveret.app.executed import ExecutedTask
from leveret.app.execution import Execution
from leveret.app.find import load_app
from leveret.errors import AppError
from leveret.pools.child import Handles, Started, StartFailure, live
from leveret.pools.executor import Executor
from leveret.pools.serial import SerialExecutor
from leveret.pools.wire import Job
from leveret.worker.logs import set_up_logging
from leveret.worker.ready import AppFacts, Policy, QueueFacts, StartFailed
from leveret.worker.spawn import ChildOptions

__all__ = ["facts_of", "main"]

_EXECUTORS: Final[Mapping[str, type[Executor]]] = {"serial": SerialExecutor}


def facts_of(app: App) -> AppFacts:
    """Return what the supervisor has to know of an app."""
    conf = app.conf
    policy = Policy(
        acks_late=conf.task_acks_late,
        acks_failures=conf.task_acks_on_failure_or_timeout,
        reruns_when_lost=conf.task_reject_on_worker_lost,
    )
    policies = {
        name: Policy(
            acks_late=_first(task.options.acks_late, policy.acks_late),
            acks_failures=_first(task.options.acks_on_failure_or_timeout, policy.acks_failures),
            reruns_when_lost=_first(task.options.reject_on_worker_lost, policy.reruns_when_lost),
        )
        for name, task in app.tasks.items()
    }
    return AppFacts(
        app_name=app.name,
        pid=os.getpid(),
        broker_url=conf.broker_url,
        result_backend=conf.result_backend,
        result_expires_s=conf.result_expires,
        connect_timeout_s=conf.broker_connection_timeout,
        heartbeat_s=conf.broker_heartbeat if conf.worker_heartbeat is None else conf.worker_heartbeat,
        concurrency=conf.worker_concurrency,
        prefetch_multiplier=conf.worker_prefetch_multiplier,
        shutdown_timeout_s=conf.worker_shutdown_timeout,
        crash_limit=conf.task_crash_limit,
        queue_max_priority=conf.task_queue_max_priority,
        queues=[QueueFacts.of(queue) for queue in app.queues()],
        tasks=sorted(app.tasks),
        policy=policy,
        policies={name: each for name, each in policies.items() if each != policy},
    )


def _first(own: bool | None, apps: bool) -> bool:
    return apps if own is None else own


def _start(options: ChildOptions) -> Started:
    set_up_logging(options.loglevel)
    try:
        app = load_app(options.app)
    except AppError as error:
        raise StartFailure(msgspec.msgpack.encode(StartFailed(str(error), error.traceback or ""))) from error
    app.conf.freeze("a worker was started")
    execution = Execution(app)

    def run(job: Job) -> ExecutedTask:
        return execution.run(job.header, job.body, job.route, redelivered=job.redelivered, queue=job.queue)

    # What the imports have made lives as long as the process: no collection needs to look at it again.
    gc.freeze()
    return Started(_EXECUTORS[options.executor](), run, msgspec.msgpack.encode(facts_of(app)))


def main() -> None:
    """Live as a child."""
    handles = Handles(*msgspec.json.decode(sys.argv[1], type=tuple[int, int, int]))
    options = msgspec.json.decode(sys.argv[2], type=ChildOptions)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what tasks print is to be seen when it is printed, in a pipe too
    sys.exit(live(handles, lambda: _start(options)))


if __name__ == "__main__":
    main()
