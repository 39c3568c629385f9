"""The broker as a service: listener, loop turns, timers, the storage's thread. The only impure loop of this room.

One turn: clients' events have changed the core; deliver what is due, hand the journal's batch to the writer, send the
outboxes. A commit on disk starts a turn of its own, in which confirms go out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from leveret.amqp.handshake import HANDSHAKE_TIMEOUT_S
from leveret.amqp.tables import Table
from leveret.broker.auth import GUEST, Users
from leveret.broker.collector import Collector
from leveret.broker.connection import ClientConnection
from leveret.broker.core.broker import Broker
from leveret.broker.core.session import Session
from leveret.broker.storage.base import Storage
from leveret.broker.storage.memory import MemoryStorage
from leveret.broker.storage.sqlite import FILE_NAME, SQLiteStorage
from leveret.broker.storage.writer import Writer
from leveret.errors import ConfigurationError, ConnectionForced, InternalError, LeveretError, StorageError
from leveret.ids import SystemIdSource

__all__ = ["BrokerConfig", "BrokerServer", "server_properties"]

log = logging.getLogger("leveret.broker")

UNWRITTEN_BYTES_MAX: Final = 64 << 20
"""Message bytes handed to the writer and not yet on disk, above which no client is read from."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long clients have to answer connection.close when the broker stops."""
COMPATIBLE_VERSION: Final = "3.13.7"
"""The RabbitMQ whose behaviour this broker has; clients switch theirs on it."""


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How a broker is to run.

    ``data``: its folder; None keeps nothing. ``creates_vhosts``: a client that asks for an unknown virtual host gets
    it made. ``idle_exit_s``: stop when nobody has been connected for so long; None: never. ``owns_process``: nothing but
    the broker runs in this process, so that it may set the garbage collector to its own needs.
    """

    host: str = "127.0.0.1"
    port: int = 5672
    data: Path | None = None
    passwords: Mapping[str, str] = field(default_factory=lambda: {GUEST: GUEST}, repr=False)
    creates_vhosts: bool = False
    heartbeat_s: int = 60
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S
    idle_exit_s: float | None = None
    owns_process: bool = False


def server_properties() -> Table:
    """Return what connection.start says of this broker: what clients test for, and our own name."""
    return {
        "capabilities": {
            "publisher_confirms": True,
            "exchange_exchange_bindings": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "consumer_priorities": True,
            "authentication_failure_close": True,
            "per_consumer_qos": True,
        },
        "cluster_name": "leveret",
        "copyright": "Licensed under the Apache License 2.0",
        "information": f"Leveret {version('leveret')}, an embedded broker that behaves as RabbitMQ {COMPATIBLE_VERSION} does",
        "platform": f"Leveret {version('leveret')}",
        "product": "RabbitMQ",
        "version": COMPATIBLE_VERSION,
    }


class BrokerServer:
    """A service: ``start`` returns when clients can connect, ``stop`` when everything is on disk."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.users = Users(config.passwords)
        self.properties = server_properties()
        self.broker = Broker(SystemIdSource().name_suffix)
        self.is_behind = False
        """Whether the disk is so far behind that nothing is read from clients."""
        self._connections: dict[ClientConnection, None] = {}
        self._connection_of: dict[Session, ClientConnection] = {}
        self._resting: list[ClientConnection] = []
        self._storage: Storage | None = None
        self._writer: Writer | None = None
        self._server: asyncio.Server | None = None
        self._unwritten: deque[tuple[int, int]] = deque()
        self._unwritten_bytes = 0
        self._is_turn_scheduled = False
        self._tick_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._failure: LeveretError | None = None
        self._collector: Collector | None = None
        self._is_stopping = False
        self._stop_task: asyncio.Task[None] | None = None
        self._all_gone = asyncio.Event()
        self._stopped = asyncio.Event()
        # One reading of the wall clock, then monotonic time: expiry must survive a restart and ignore clock changes.
        self._epoch_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        """Return seconds since 1970 that never jump."""
        return self._epoch_s + time.monotonic()

    # ---------------------------------------------------------------------------------------- life and death

    async def start(self) -> None:
        """Recover what is on disk, then listen.

        Raises:
            StorageError: The data folder cannot be used (DataFolderInUse: by another broker).
            ConfigurationError: The address cannot be listened on.
        """
        if self._server is not None:
            return
        self.loop = asyncio.get_running_loop()
        self._storage = storage = open_storage(self.config.data)
        try:
            self._recover(storage)
            self._server = await self.loop.create_server(
                lambda: ClientConnection(self), self.config.host, self.config.port, backlog=1024
            )
        except OSError as error:
            storage.close(self.broker.redelivered())
            raise _listen_error(error, self.config) from error
        except BaseException:
            storage.close(None)
            raise
        self._writer = Writer(
            storage,
            on_committed=lambda batch: self._call_from_thread(self._committed, batch),
            on_failed=lambda error: self._call_from_thread(self._storage_failed, error),
        )
        self._writer.start()
        if self.config.owns_process:
            self._collector = Collector()
        self._all_gone.set()
        self._watch_idleness()
        self.schedule_turn()

    def _recover(self, storage: Storage) -> None:
        snapshot = storage.load()
        self.broker.restore(snapshot, self.now_s())
        if snapshot.quarantined:
            log.error(
                "%d messages failed their check and are kept aside in the table `quarantine` of %s",
                snapshot.quarantined,
                self.config.data,
            )
        if "/" not in self.broker.vhosts:
            self.broker.add_vhost("/")

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port that clients connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def serve(self) -> None:
        """Wait until the broker has stopped.

        Raises:
            LeveretError: It stopped because its storage failed.
        """
        await self._stopped.wait()
        if self._stop_task is not None:
            await self._stop_task
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Tell the clients, write everything, close; a second call does nothing."""
        if self._is_stopping or self._server is None or self._writer is None or self._storage is None:
            return
        self._is_stopping = True
        try:
            await self._stop(self._server, self._writer, self._storage)
        finally:
            self._stopped.set()

    async def _stop(self, server: asyncio.Server, writer: Writer, storage: Storage) -> None:
        server.close()
        reason: ConnectionForced | InternalError
        if self._failure is None:
            reason = ConnectionForced("broker forced connection closure with reason 'shutdown'")
        else:
            reason = InternalError("the broker cannot write to its disk any more and stops")
        for connection in list(self._connections):
            connection.shut_down(reason)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._all_gone.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        for timer in (self._tick_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        if not self.broker.journal.is_empty and self._failure is None:
            writer.submit(self.broker.take_batch())
        await self.loop.run_in_executor(None, writer.stop)
        try:
            storage.close(None if self._failure is not None else self.broker.redelivered())
        except StorageError as error:
            self._failure = self._failure or error

    def _storage_failed(self, error: LeveretError) -> None:
        log.critical("%s; stopping: nothing more can be confirmed", error, exc_info=error.__cause__)
        self._failure = error
        self.stop_soon()

    def stop_soon(self) -> None:
        """Begin to stop; for signal handlers."""
        if self._stop_task is None:
            self._stop_task = self.loop.create_task(self.stop())

    def _call_from_thread(self, callback: object, argument: object) -> None:
        self.loop.call_soon_threadsafe(callback, argument)  # type: ignore[arg-type]  # the two callers pass matching pairs

    # ----------------------------------------------------------------------------------- for the connections

    def add(self, connection: ClientConnection) -> None:
        """Count a client in."""
        self._connections[connection] = None
        self._all_gone.clear()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def remove(self, connection: ClientConnection) -> None:
        """Count a client out."""
        self._connections.pop(connection, None)
        if self._collector is not None:
            self._collector.connection_ended()
        if not self._connections:
            self._all_gone.set()
            self._watch_idleness()

    def open_session(self, connection: ClientConnection, vhost: str, user: str, *, takes_cancel: bool) -> Session:
        """Make a session on a virtual host.

        Raises:
            NotAllowed: No such virtual host.
        """
        if self.config.creates_vhosts and vhost not in self.broker.vhosts:
            self.broker.add_vhost(vhost)
        session = self.broker.connect(vhost, user, takes_cancel=takes_cancel)
        self._connection_of[session] = connection
        return session

    def close_session(self, session: Session) -> None:
        """Forget a session that was closed; others may now get what it held."""
        self._connection_of.pop(session, None)
        self.schedule_turn()

    def await_commit(self, connection: ClientConnection) -> None:
        """Call the connection's ``proceed`` when the batch that its session waits for is on disk."""
        self._resting.append(connection)

    # ---------------------------------------------------------------------------------------------- turns

    def schedule_turn(self) -> None:
        """Run a turn when the reads that are at hand have been handled."""
        if not self._is_turn_scheduled:
            self._is_turn_scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_scheduled = False
        broker = self.broker
        try:
            broker.run_due(self.now_s())
        except Exception:  # one queue's surprise is not the others'
            log.exception("unexpected error while delivering; going on with the next queue")
            self.schedule_turn()
        if not broker.journal.is_empty and not self._is_stopping and self._writer is not None:
            batch = broker.take_batch()
            self._writer.submit(batch)
            self._unwritten.append((batch.id, batch.size_bytes))
            self._unwritten_bytes += batch.size_bytes
            self.is_behind = self._unwritten_bytes > UNWRITTEN_BYTES_MAX
        self._send_outboxes()
        self._arm_tick()

    def _send_outboxes(self) -> None:
        due, self.broker.output_due = self.broker.output_due, []
        for session in due:
            connection = self._connection_of.get(session)
            if connection is not None:
                connection.write_output()

    def _committed(self, batch_id: int) -> None:
        while self._unwritten and self._unwritten[0][0] <= batch_id:
            self._unwritten_bytes -= self._unwritten.popleft()[1]
        self.broker.committed_through(batch_id)
        resting, self._resting = self._resting, []
        for connection in resting:
            session = connection.session
            if session is None or session.awaited_batch <= batch_id:
                connection.proceed()
            else:
                self._resting.append(connection)
        self._send_outboxes()
        if self.is_behind and self._unwritten_bytes < UNWRITTEN_BYTES_MAX // 2:
            self.is_behind = False
            for connection in self._connections:
                connection.reconsider_reading()

    def _arm_tick(self) -> None:
        """Have the core's next deadline looked at when it comes."""
        deadline_s = self.broker.next_deadline_s()
        if deadline_s is None:
            return
        when = deadline_s - self._epoch_s
        if self._tick_timer is not None:
            if self._tick_timer.when() <= when and not self._tick_timer.cancelled():
                return
            self._tick_timer.cancel()
        self._tick_timer = self.loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        try:
            self.broker.tick(self.now_s())
        except Exception:  # one queue's surprise is not the others'
            log.exception("unexpected error while expiring messages; going on with the next queue")
        self.schedule_turn()

    def _watch_idleness(self) -> None:
        if self.config.idle_exit_s is not None and self._idle_timer is None and not self._is_stopping:
            self._idle_timer = self.loop.call_later(self.config.idle_exit_s, self._leave)

    def _leave(self) -> None:
        log.info("nobody has been connected for %.0f s: leaving; the next start finds everything again", self.config.idle_exit_s)
        self.stop_soon()


def open_storage(data: Path | None) -> Storage:
    """Open the storage of a data folder, making the folder private when it is new.

    Raises:
        StorageError: It cannot be made, written or is in use.
    """
    if data is None:
        return MemoryStorage()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the data folder {data}: {error.strerror}; choose one that you may write to") from error
    if not data.is_dir() or not os.access(data, os.W_OK | os.X_OK):
        raise StorageError(f"the data folder {data} is not writable; choose another, or give yourself the right to write there")
    file = data / FILE_NAME
    if file.exists() and not os.access(file, os.W_OK):
        raise StorageError(f"{file} is not writable; give yourself the right to write to it, or choose another data folder")
    return SQLiteStorage(data)


def _listen_error(error: OSError, config: BrokerConfig) -> ConfigurationError:
    address = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(f"port {config.port} on {config.host} is in use by another program; choose another with --port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"not allowed to listen on {address}: ports below 1024 are reserved; choose another with --port"
        )
    reason = error.strerror or str(error)
    if error.errno is not None and error.errno in errno.errorcode:
        reason = os.strerror(error.errno)  # asyncio puts words of its own there
    return ConfigurationError(f"cannot listen on {address}: {reason}; --host is to be an address or a name of this machine")
