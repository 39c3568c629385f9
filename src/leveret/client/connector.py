"""The one connection of a process: made by the first thread that needs it, used by all, replaced once it is lost.

::

    thread A  ── get ── connects ───────────────► the connection, or why there is none
    thread B  ── get ── waits for A's attempt ──► the same        (and tries itself, should A have had less time)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from leveret.amqp.uris import AMQPURL
from leveret.client.deadline import Deadline
from leveret.client.identity import client_properties
from leveret.client.link import Link
from leveret.client.recovery import rotated, unavailable
from leveret.client.replies import Replies
from leveret.client.shared import SharedConnection
from leveret.clock import Clock
from leveret.errors import AMQPError, BrokerUnavailable, LeveretError, LocalProtocolError

__all__ = ["Connector"]


class _Attempt:
    """One thread's attempt to connect, which others wait for."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.error: LeveretError | None = None
        self.finished = threading.Event()


class Connector:
    """Finds, keeps and replaces the connection; ``resolve`` is asked for the URLs each time one has to be made."""

    def __init__(
        self,
        resolve: Callable[[], Sequence[AMQPURL]],
        *,
        connect_timeout_s: float,
        client_name: str,
        reply_queue: str,
        clock: Clock,
    ) -> None:
        self.reply_queue = reply_queue
        self.replies = Replies()
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._properties = client_properties(client_name)
        self._clock = clock
        self._lock = threading.Lock()
        self._current: SharedConnection | None = None
        self._last_url: AMQPURL | None = None
        self._attempt: _Attempt | None = None
        self._closed = threading.Event()

    def get(self, deadline: Deadline) -> SharedConnection:
        """Return the connection, making one if there is none.

        Raises:
            BrokerUnavailable: no URL could be connected to in time; the message names all of them.
            ConfigurationError: there is no usable URL.
            LocalProtocolError: the client has been closed.

        """
        while True:
            current = self._current
            if current is not None and current.is_open:
                return current
            with self._lock:
                if self._closed.is_set():
                    raise LocalProtocolError("this client has been closed")
                if self._current is not current:
                    continue
                attempt = self._attempt
                is_mine = attempt is None
                if attempt is None:
                    attempt = self._attempt = _Attempt(min(deadline.remaining_s(), self._connect_timeout_s))
            if is_mine:
                self._make(attempt)
            elif not attempt.finished.wait(deadline.remaining_s()):
                raise BrokerUnavailable(f"another thread has not been able to connect within {deadline.timeout_s:g} s")
            elif attempt.error is not None and attempt.timeout_s >= min(self._connect_timeout_s, deadline.remaining_s()):
                raise BrokerUnavailable(str(attempt.error)) from attempt.error

    def pause(self, timeout_s: float) -> None:
        """Wait, but not beyond ``close``."""
        self._closed.wait(timeout_s)

    def close(self, deadline: Deadline) -> None:
        """Close the connection; there is none afterwards. Never raises."""
        self._closed.set()
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            current.close(deadline)

    def abandon(self) -> None:
        """Let go of a connection that belongs to the parent process."""
        if self._current is not None:
            self._current.abandon()

    def _make(self, attempt: _Attempt) -> None:
        made: SharedConnection | None = None
        try:
            link = self._open(Deadline(attempt.timeout_s, self._clock))
            made = SharedConnection(link, reply_queue=self.reply_queue, replies=self.replies)
        except LeveretError as error:
            attempt.error = error
            raise
        finally:
            with self._lock:
                self._attempt = None
                if not self._closed.is_set():
                    self._current = made
                    made = None
            attempt.finished.set()
            if made is not None:  # closed meanwhile
                made.abandon()

    def _open(self, deadline: Deadline) -> Link:
        urls = rotated(self._resolve(), self._last_url)
        failures: list[tuple[AMQPURL, Exception]] = []
        for left, url in zip(range(len(urls), 0, -1), urls, strict=True):
            try:
                link = Link.open(
                    url,
                    deadline=deadline.at_most(deadline.remaining_s() / left),
                    clock=self._clock,
                    client_properties=self._properties,
                )
            except (OSError, AMQPError, BrokerUnavailable) as error:
                failures.append((url, error))
            else:
                self._last_url = url
                return link
        raise unavailable(failures) from (failures[-1][1] if failures else None)
