"""Results in one SQLite file, written and read by any number of processes on this machine.

::

    PRAGMA application_id = 0x4C565254 ("LVRT")          PRAGMA user_version = 1
    results   seq         grows with every write and is never used twice: readers look for what is new by it
              task_id     one row a task, its latest result
              status      Celery's word for its state
              meta        the whole result as JSON (leveret.results.meta)
              expires_s   seconds since 1970 after which the row may be deleted

WAL mode, ``synchronous=FULL``: what ``store`` has returned from is on disk. To change the format, raise ``_VERSION`` and
write the step from the version before into ``_prepare``; a file of a later version is refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from leveret.clock import Clock, SystemClock
from leveret.errors import StorageCorrupt, StorageError
from leveret.results.meta import ResultMeta, decode_meta, task_id_and_state
from leveret.tasks.states import FINAL_STATES, State

__all__ = ["SqliteReader", "SqliteWatch", "SqliteWriter"]

_APPLICATION_ID: Final = 0x4C565254
_VERSION: Final = 1
_BUSY_MS: Final = 10_000
"""How long one process waits for another that writes."""
_CLEAN_EVERY_S: Final = 60.0
_CLEAN_COUNT: Final = 1000
"""Expired rows deleted at most in one transaction, so that no result waits long behind it."""
_POLL_MIN_S: Final = 0.001
_POLL_MAX_S: Final = 0.05
_IDS_COUNT: Final = 500
"""Ids asked for in one statement; SQLite takes 999 parameters at least."""
_ROWS_COUNT: Final = 1000
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SCHEMA: Final = """
CREATE TABLE results (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    meta BLOB NOT NULL,
    expires_s REAL NOT NULL
);
CREATE INDEX results_by_expiry ON results (expires_s);
"""

# The row of a task that is there is replaced, so that it gets a new seq; unless it says that the task has succeeded.
_STORE: Final = """
INSERT OR REPLACE INTO results (task_id, status, meta, expires_s) SELECT ?1, ?2, ?3, ?4
WHERE NOT EXISTS (SELECT 1 FROM results WHERE task_id = ?1 AND status = 'SUCCESS')
"""
_CLEAN: Final = "DELETE FROM results WHERE seq IN (SELECT seq FROM results WHERE expires_s < ?1 LIMIT ?2)"
_LATEST: Final = "SELECT meta FROM results WHERE task_id = ?1"
_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM results"
_NEW: Final = "SELECT seq, task_id, status, meta FROM results WHERE seq > ?1 ORDER BY seq LIMIT ?2"


class SqliteWriter:
    """The worker's side of the file."""

    def __init__(self, path: Path, *, expires_s: float, clock: Clock | None = None) -> None:
        """Open the file, and make it if there is none; ``expires_s`` is how long a result is kept.

        Raises:
            StorageError: it cannot be opened or made.
            StorageCorrupt: it is not what was written.

        """
        self._path = path
        self._expires_s = expires_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._cleaned_s = float("-inf")
        self._connection: sqlite3.Connection | None = _open(path)

    def store(self, metas: Sequence[bytes]) -> None:
        """Store encoded results in one transaction; when it returns they are on disk.

        Raises:
            MessageError: one of them is not a result; none was stored.
            StorageError: it could not be done; none was stored.

        """
        expires_s = self._clock.wall_s() + self._expires_s
        rows = [(*task_id_and_state(meta), meta, expires_s) for meta in metas]
        with self._lock, _told(self._path):
            if self._connection is None:
                raise StorageError(f"{self._path} was closed")
            with _transaction(self._connection):
                self._connection.executemany(_STORE, rows)
            self._clean(self._connection)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _clean(self, connection: sqlite3.Connection) -> None:
        """Delete some of what has expired, now and then."""
        now_s = self._clock.monotonic_s()
        if now_s - self._cleaned_s < _CLEAN_EVERY_S:
            return
        with _transaction(connection):
            deleted = connection.execute(_CLEAN, (self._clock.wall_s(), _CLEAN_COUNT)).rowcount
        if deleted < _CLEAN_COUNT:  # else the next store goes on with it
            self._cleaned_s = now_s


class SqliteReader:
    """The producer's side of the file; after a fork the child opens it for itself."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """Name the file; it is opened when it is first needed, and made then if no worker has done so yet."""
        self._path = path
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        # SQLite forbids a child even to close what it inherited, so that is kept for ever instead of being collected.
        self._inherited: list[sqlite3.Connection] = []

    def watch(self, task_ids: Collection[str]) -> SqliteWatch:
        """Begin to wait for these."""
        return SqliteWatch(self, task_ids, self._clock)

    def latest(self, task_id: str) -> ResultMeta | None:
        """Return what is known of a task now; None when nothing is.

        Raises:
            StorageError: the file cannot be read.

        """
        with self.connection() as connection:
            row = connection.execute(_LATEST, (task_id,)).fetchone()
        return None if row is None else decode_meta(row[0])

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend this process's connection, to one thread at a time."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()  # the parent's may be held by a thread that is not here
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._pid = None, os.getpid()
        with self._lock, _told(self._path):
            if self._connection is None:
                self._connection = _open(self._path)
            yield self._connection


class SqliteWatch:
    """A wait for some results: first those that are there, then whatever is new in the file."""

    def __init__(self, reader: SqliteReader, task_ids: Collection[str], clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._waiting = set(task_ids)
        self._seq: int | None = None
        # What the file was like when it was last looked at: versions of one connection can be compared, of two they cannot.
        self._seen: tuple[sqlite3.Connection, int] | None = None

    def next(self, timeout_s: float | None) -> list[ResultMeta]:
        """Return the results that have come since the last call, waiting for the first; empty: the time is over, or none is left.

        Raises:
            StorageError: the file cannot be read.

        """
        deadline_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        pause_s = _POLL_MIN_S
        while self._waiting:
            found = self._look()
            if found:
                self._waiting.difference_update(meta.task_id for meta in found)
                return found
            if deadline_s is not None:
                remaining_s = deadline_s - self._clock.monotonic_s()
                if remaining_s <= 0:
                    break
                pause_s = min(pause_s, remaining_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _POLL_MAX_S)
        return []

    def _look(self) -> list[ResultMeta]:
        with self._reader.connection() as connection:
            seen = (connection, connection.execute("PRAGMA data_version").fetchone()[0])
            if seen == self._seen:
                return []
            self._seen = seen
            if self._seq is not None:
                return self._look_by_seq(connection, self._seq)
            (self._seq,) = connection.execute(_LAST_SEQ).fetchone()
            return self._look_by_id(connection)

    def _look_by_id(self, connection: sqlite3.Connection) -> list[ResultMeta]:
        ids = list(self._waiting)
        found: list[ResultMeta] = []
        for start in range(0, len(ids), _IDS_COUNT):
            part = ids[start : start + _IDS_COUNT]
            marks = ",".join("?" * len(part))
            rows = connection.execute(f"SELECT status, meta FROM results WHERE task_id IN ({marks})", part)  # only marks
            found += [decode_meta(meta) for status, meta in rows if status in FINAL_STATES]
        return found

    def _look_by_seq(self, connection: sqlite3.Connection, seq: int) -> list[ResultMeta]:
        found: list[ResultMeta] = []
        rows = [(seq, "", State.PENDING.value, b"")]
        while rows:
            rows = connection.execute(_NEW, (seq, _ROWS_COUNT)).fetchall()
            found += [
                decode_meta(meta) for _, task_id, status, meta in rows if task_id in self._waiting and status in FINAL_STATES
            ]
            seq = rows[-1][0] if rows else seq
        self._seq = seq
        return found


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, or make it: readable and writable by its user only, in a folder that is made the same way."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageError(
            f"the results file {path} cannot be opened for writing: {error.strerror}; "
            "set LEVERET_HOME, or the setting result_backend, to a place that you may write to"
        ) from error
    with _told(path):
        connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up; make the tables, or check that they are ours and of this version."""
    connection.execute("PRAGMA synchronous = FULL")
    with _transaction(connection):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not version:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif application_id != _APPLICATION_ID:
            raise StorageError(f"{path} is a SQLite database of another program; give the results a file of their own")
        elif version != _VERSION:
            raise StorageError(f"{path} has format {version}, of another version of Leveret; this one knows {_VERSION}")
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which the file remembers. SQLite does not wait by itself where two processes do this at once."""
    for _ in range(_BUSY_MS // 10):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.01)
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _DAMAGED:
            raise StorageError(f"the results file {path} cannot be used: {error}") from error
        raise StorageCorrupt(
            f"the results file {path} is damaged ({error}); stop the workers and move it away: a new one is made, and only "
            f"results that were not fetched are lost"
        ) from error
