"""The settings of an app: one object, Celery's lower-case names where Celery has the thing, every value checked when it is set.

A setting is here only if something obeys it. Those that Celery's users know and nothing here obeys yet are refused by name,
never taken in silence. The first use of the app (a call sent, a worker started) freezes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from leveret.amqp.topology import Queue
from leveret.app import setting
from leveret.app.setting import Setting
from leveret.errors import ConfigurationError

__all__ = ["NOT_YET", "Settings"]

NOT_YET: Final[frozenset[str]] = frozenset(
    {"accept_content", "beat_schedule", "beat_scheduler", "broker_failover_strategy", "broker_pool_limit", "broker_use_ssl"}
    | {"broker_transport_options", "control_exchange", "event_queue_expires", "imports", "include", "redis_max_connections"}
    | {"result_backend_transport_options", "result_chord_join_timeout", "result_compression", "result_extended"}
    | {"result_persistent", "security_certificate", "security_key", "task_always_eager", "task_annotations"}
    | {"task_compression", "task_create_missing_queues", "task_default_delivery_mode", "task_default_exchange"}
    | {"task_default_exchange_type", "task_default_queue_type", "task_default_rate_limit", "task_default_routing_key"}
    | {"task_eager_propagates", "task_inherit_parent_priority", "task_publish_retry", "task_publish_retry_policy"}
    | {"task_remote_tracebacks", "task_send_sent_event", "task_soft_time_limit", "task_store_errors_even_if_ignored"}
    | {"task_time_limit", "task_track_started", "timezone", "worker_autoscaler", "worker_cancel_long_running_tasks"}
    | {"worker_direct", "worker_disable_rate_limits", "worker_enable_remote_control", "worker_log_format", "worker_lost_wait"}
    | {"worker_max_memory_per_child", "worker_max_tasks_per_child", "worker_pool", "worker_proc_alive_timeout"}
    | {"worker_send_task_events", "worker_task_log_format"}
)
"""Settings of Celery's that nothing here obeys yet."""


class Settings:
    """Every setting of one app, read and set as attributes; ``values`` holds those that were set."""

    __slots__ = ("_frozen_since", "values")

    values: dict[str, object]
    _frozen_since: str | None

    broker_url = Setting(
        setting.LOCAL_URL,
        setting.broker_url,
        "Where the broker is: `local://` (this user's own, started when needed) or `amqp(s)://user:password@host:port/vhost`, "
        "several separated by `;`. `LEVERET_BROKER_URL` in the environment is used when the program names none.",
    )
    broker_connection_timeout = Setting(
        4.0, setting.seconds, "Seconds in which one host has to accept a connection and the login."
    )
    broker_publish_timeout = Setting(5.0, setting.seconds, "Seconds in which a send is confirmed or fails, connecting included.")
    broker_heartbeat = Setting(
        60, setting.number(least=0, most=65_535), "Seconds between the AMQP heartbeats of a worker's connection; 0: none."
    )

    task_default_queue = Setting("celery", setting.name, "The queue of a task that names none and that no route fits.")
    task_queues = Setting[Sequence[Queue]](
        (), setting.queues, "Queues with an exchange, arguments or priorities; any other name is a plain durable queue."
    )
    task_routes = Setting[Mapping[str, str]](
        {}, setting.routes, 'Queues by task name or glob, `{"shop.*": "orders"}`; an exact name goes before any glob.'
    )
    task_queue_max_priority = Setting[int | None](
        None, setting.or_none(setting.number(least=1, most=255)), "`x-max-priority` of queues that are not in `task_queues`."
    )
    task_default_priority = Setting(
        0, setting.priority, "The priority of a call whose task names none, 0 to 255; higher goes first."
    )

    task_acks_late = Setting(
        True,
        setting.flag,
        "Acknowledge a message after its task has run, so that no work is lost with a worker. Celery: `False`.",
    )
    task_acks_on_failure_or_timeout = Setting(
        False,
        setting.flag,
        "Acknowledge the message of a failed task; `False` hands it to the dead-letter exchange of its queue, if there is one. "
        "Celery: `True`.",
    )
    task_reject_on_worker_lost = Setting(
        True,
        setting.flag,
        "Run a task again whose process died, up to `task_crash_limit`; `False` fails it at once. Celery: `False`.",
    )
    task_crash_limit = Setting(
        3, setting.number(least=1), "How many processes may die of one message before it is given up with a stored failure."
    )
    task_default_retry_delay = Setting(
        180.0, setting.seconds_or_zero, "Seconds before a retry, for a task without a retry policy or delay of its own."
    )
    task_ignore_result = Setting(False, setting.flag, "Store no results, unless the task or the call says otherwise.")
    task_serializer = Setting[Literal["json"]]("json", setting.json_only, "How arguments are written: JSON.")

    result_backend = Setting[str | None](
        None,
        setting.or_none(setting.result_backend),
        "Where results are kept: `sqlite:///path` or `rpc://` (a reply queue of the producer). By default a file beside the "
        "local broker, and `rpc://` with any other.",
    )
    result_expires = Setting(86_400.0, setting.seconds, "Seconds after which a stored result may be deleted.")
    result_serializer = Setting[Literal["json"]]("json", setting.json_only, "How results are written: JSON.")

    worker_concurrency = Setting[int | None](
        None, setting.or_none(setting.number(least=1)), "How many tasks a worker runs at a time; by default one per usable CPU."
    )
    worker_prefetch_multiplier = Setting[int | None](
        None,
        setting.or_none(setting.number(least=0, most=65_535)),
        "Messages taken per task that runs at a time; 0: no limit; by default it follows the tasks' measured time. Celery: 4.",
    )
    worker_heartbeat = Setting[int | None](
        None, setting.or_none(setting.number(least=0, most=65_535)), "`broker_heartbeat` for workers, where it is to differ."
    )
    worker_shutdown_timeout = Setting(
        25.0,
        setting.seconds_or_zero,
        "Seconds that running tasks have to finish once a worker is to stop; what is left goes back to its queue.",
    )

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        object.__setattr__(self, "values", {})
        object.__setattr__(self, "_frozen_since", None)
        self.update(values)

    @classmethod
    def known(cls) -> Mapping[str, Setting[object]]:
        """Return every setting by name, in the order of the documentation."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}

    def update(self, values: Mapping[str, object] | None = None, /, **more: object) -> None:
        """Set several at once; either all of them are set or none.

        Raises:
            ConfigurationError: an unknown name (the nearest known one is named), a value that cannot be, or frozen settings.

        """
        known = self.known()
        given = {**(values or {}), **more}
        for name in given:
            if name not in known:
                raise ConfigurationError(_unknown(name, known))
            if self._frozen_since is not None:
                raise ConfigurationError(f"{name} cannot be set any more: the settings are frozen since {self._frozen_since}")
        self.values.update({name: known[name].checked(value) for name, value in given.items()})

    def freeze(self, moment: str) -> None:
        """Take no more changes; ``moment`` completes "the settings are frozen since ...". Only the first call counts."""
        if self._frozen_since is None:
            object.__setattr__(self, "_frozen_since", moment)

    @property
    def is_frozen(self) -> bool:
        """Tell whether the settings take no more changes."""
        return self._frozen_since is not None

    if not TYPE_CHECKING:  # type checkers are to know the settings there are, and nothing else

        def __setattr__(self, name: str, value: object) -> None:
            self.update({name: value})

    def __repr__(self) -> str:
        shown = {name: "(hidden)" if name.endswith("_url") else value for name, value in self.values.items()}
        return f"Settings({shown!r})"


def _unknown(name: str, known: Mapping[str, object]) -> str:
    if name in NOT_YET:
        return f"the setting {name!r} is not available yet: Celery has it, nothing in this version obeys it"
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; docs/settings.md has them all")
