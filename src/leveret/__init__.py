"""Leveret: distributed workers for Python over AMQP 0-9-1.

::

    from leveret import App

    app = App("shop")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3).get(timeout=10)
"""

from __future__ import annotations

from leveret.amqp.topology import Binding, Exchange, Queue
from leveret.app.app import App
from leveret.app.context import Request, TaskContext
from leveret.app.result import Result, as_completed
from leveret.app.settings import Settings
from leveret.app.task import Task
from leveret.errors import (
    ArgumentsError,
    BrokerUnavailable,
    ConfigurationError,
    DuplicateTask,
    EncodingError,
    LeveretError,
    NotRegistered,
    PublishBlocked,
    PublishError,
    PublishNacked,
    PublishUnconfirmed,
    ResultTimeout,
    RetriesExhausted,
    StorageError,
    TaskError,
    TaskFailed,
    TaskRevoked,
    Unroutable,
    WorkerLost,
)
from leveret.tasks.retry import RetryPolicy
from leveret.tasks.signals import Ignore, Reject, Retry

__all__ = [
    "App",
    "ArgumentsError",
    "Binding",
    "BrokerUnavailable",
    "ConfigurationError",
    "DuplicateTask",
    "EncodingError",
    "Exchange",
    "Ignore",
    "LeveretError",
    "NotRegistered",
    "PublishBlocked",
    "PublishError",
    "PublishNacked",
    "PublishUnconfirmed",
    "Queue",
    "Reject",
    "Request",
    "Result",
    "ResultTimeout",
    "RetriesExhausted",
    "Retry",
    "RetryPolicy",
    "Settings",
    "StorageError",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskFailed",
    "TaskRevoked",
    "Unroutable",
    "WorkerLost",
    "as_completed",
]
