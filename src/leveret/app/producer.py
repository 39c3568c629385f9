"""What sends: from a task's call to a confirmed message, within one deadline.

``send`` binds and encodes the arguments first, so that what cannot be sent fails before anything happens; then it declares the
queues on the way, once per connection, and publishes, mandatory and confirmed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from leveret.amqp.constants import SHORTSTR_SIZE_MAX
from leveret.amqp.tables import Table
from leveret.amqp.topology import Queue
from leveret.app.backends import broker_resolver, result_file
from leveret.app.settings import Settings
from leveret.app.task import CallOptions, Task
from leveret.client.blocking import BlockingClient
from leveret.clock import Clock, SystemClock
from leveret.errors import ConfigurationError, EncodingError, Unroutable
from leveret.ids import IdSource, SystemIdSource
from leveret.results.base import ResultReader
from leveret.results.rpc import ReplyReader
from leveret.results.sqlite import SqliteReader
from leveret.tasks.message import Embedded, TaskMessage, describe, encode_body, encode_message_header
from leveret.tasks.options import check_priority
from leveret.tasks.routing import DELAY_LEASE_S, Route, delay_queue, route_to
from leveret.tasks.serializers import BODY_SIZE_BYTES_MAX

__all__ = ["Producer", "Sent"]

T = TypeVar("T")

_LEASE_USED_S: Final = DELAY_LEASE_S / 3
"""A delay queue declared this long ago is declared again: a publish that takes its time must still be within the lease."""
_REMEMBERED_MAX: Final = 1000
"""Queues, and delay queues, that are remembered; beyond, all are forgotten and looked up again."""


class Sent(NamedTuple):
    """What is known of a call that was sent."""

    task_id: str
    ignore_result: bool


class Producer:
    """Sends calls and reads results for one app; any thread may use it, and a forked child too."""

    def __init__(self, app_name: str, settings: Settings, *, clock: Clock | None = None, ids: IdSource | None = None) -> None:
        """Connect to nothing yet; the settings are frozen by now."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIdSource()
        self._queues: Mapping[str, Queue] = {queue.name: queue for queue in settings.task_queues}
        self._routes: dict[str, Route] = {}
        self._leases: dict[str, float] = {}
        self._host = socket.gethostname()
        self._client = BlockingClient(
            broker_resolver(app_name, settings), connect_timeout_s=settings.broker_connection_timeout, client_name=app_name
        )
        path = result_file(app_name, settings)
        self._reader: ResultReader = SqliteReader(path) if path is not None else ReplyReader(self._client)
        self._needs_replies = path is None

    def reader(self) -> ResultReader:
        """Return where this app's results are read."""
        return self._reader

    def send(
        self,
        task: Task[..., object],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        options: CallOptions,
        *,
        queue: str,
    ) -> Sent:
        """Send one call to a queue; when it returns, the broker has taken responsibility for it.

        Raises:
            ArgumentsError: the arguments do not fit the function; nothing was sent.
            EncodingError: an argument or a header has no form on the wire, or they are too much; nothing was sent.
            ConfigurationError: an option that cannot be; nothing was sent.
            BrokerUnavailable: no broker answered in time; nothing was sent.
            PublishError: the broker has not taken the message; its subclasses say why.
            ReplyError: the broker refused a queue, ``PreconditionFailed`` where it exists with other properties.

        """
        encoded_args, encoded_kwargs = task.signature.encode(args, kwargs)
        deadline_s = self._clock.monotonic_s() + self._settings.broker_publish_timeout
        now = datetime.fromtimestamp(self._clock.wall_s(), UTC)
        message = self._message(task, args, kwargs, options, now)
        body = encode_body(encoded_args, encoded_kwargs, Embedded())
        if len(body) > BODY_SIZE_BYTES_MAX:
            raise EncodingError(
                f"the arguments of {task.signature} have {len(body):,} bytes as JSON, and {BODY_SIZE_BYTES_MAX:,} are the most; "
                "keep them in a file or a database, and send where they are"
            )
        route = self._route(queue)
        delay_s = 0.0 if message.eta is None else (message.eta - now).total_seconds()
        self._client.declare([route.queue], self._remaining_s(deadline_s))
        if delay_s > 0:
            route = self._delay(route, delay_s, deadline_s)
        if self._needs_replies and not message.ignore_result:
            message.reply_to = self._client.reply_queue()
        self._publish(route, encode_message_header(message, len(body)), body, deadline_s)
        return Sent(message.id, message.ignore_result)

    def close(self) -> None:
        """Close the connection and the results; safe to call twice."""
        self._reader.close()
        self._client.close()

    def _message(
        self,
        task: Task[..., object],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        options: CallOptions,
        now: datetime,
    ) -> TaskMessage:
        settings = self._settings
        expires = _time("expires", options.get("expires"), now)
        priority = _first(options.get("priority"), task.options.priority, settings.task_default_priority)
        check_priority(priority)
        task_id = _task_id(options) or self._ids.task_id()
        return TaskMessage(
            id=task_id,
            task=task.name,
            eta=_eta(options, now),
            expires=expires,
            expiration_ms=None if expires is None else max(1, int((expires - now) / timedelta(milliseconds=1))),
            root_id=task_id,
            argsrepr=describe(tuple(args)),
            kwargsrepr=describe(dict(kwargs)),
            origin=f"gen{os.getpid()}@{self._host}",
            ignore_result=_first(options.get("ignore_result"), task.options.ignore_result, settings.task_ignore_result),
            priority=priority,
            headers=_headers(options),
        )

    def _route(self, queue: str) -> Route:
        """Return the way to a queue: made once, for most programs have few."""
        route = self._routes.get(queue)
        if route is None:
            if len(self._routes) >= _REMEMBERED_MAX:
                self._routes.clear()
            route = route_to(queue, self._queues, max_priority=self._settings.task_queue_max_priority)
            self._routes[queue] = route
        return route

    def _delay(self, route: Route, delay_s: float, deadline_s: float) -> Route:
        """Return the way into the delay queue before a queue; it exists then, and for long enough."""
        waiting = delay_queue(route.queue.name, delay_s)
        now_s = self._clock.monotonic_s()
        is_due = now_s - self._leases.get(waiting.name, float("-inf")) >= _LEASE_USED_S
        self._client.declare([waiting], self._remaining_s(deadline_s), again=is_due)
        if is_due:
            if len(self._leases) >= _REMEMBERED_MAX:
                self._leases.clear()
            self._leases[waiting.name] = now_s
        return Route("", waiting.name, waiting)

    def _publish(self, route: Route, header: bytes, body: bytes, deadline_s: float) -> None:
        """Publish; where the queue was deleted since it was declared, declare it once more: a returned message was not taken."""
        exchange, routing_key = route.exchange, route.routing_key
        try:
            self._client.publish(exchange, routing_key, header, body, timeout_s=self._remaining_s(deadline_s))
        except Unroutable:
            self._client.declare([route.queue], self._remaining_s(deadline_s), again=True)
            self._client.publish(exchange, routing_key, header, body, timeout_s=self._remaining_s(deadline_s))

    def _remaining_s(self, deadline_s: float) -> float:
        return max(0.0, deadline_s - self._clock.monotonic_s())


def _first(asked: T | None, option: T | None, default: T) -> T:
    return asked if asked is not None else option if option is not None else default


def _task_id(options: CallOptions) -> str | None:
    task_id: object = options.get("task_id")
    if task_id is None or (isinstance(task_id, str) and len(task_id.encode(errors="replace")) <= SHORTSTR_SIZE_MAX):
        return task_id
    raise ConfigurationError(f"task_id must be a str of at most {SHORTSTR_SIZE_MAX} bytes, not {describe(task_id)}")


def _headers(options: CallOptions) -> Table:
    headers = dict(options.get("headers") or {})
    for name in headers:
        if not isinstance(name, str):
            raise ConfigurationError(f"the names of headers must be str, not {describe(name)}")
    return headers


def _eta(options: CallOptions, now: datetime) -> datetime | None:
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is not None and eta is not None:
        raise ConfigurationError("give either countdown or eta, not both")
    return _time("countdown", countdown, now) if eta is None else _time("eta", eta, now)


def _time(name: str, value: float | datetime | None, now: datetime) -> datetime | None:
    """Return a point in time, given as one or as seconds from now."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigurationError(
                f"{name}={value!r} has no time zone, so nobody knows when that is; "
                f"write datetime.now(timezone.utc) + timedelta(...), or give {name} a time zone with .astimezone()"
            )
        return value
    try:
        return now + timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{name} must be seconds from now or a datetime with a time zone, not {value!r}") from error
