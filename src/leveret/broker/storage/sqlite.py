"""Durable storage in one SQLite file.

Format, version 1 (``PRAGMA user_version``; to change it: raise the version, write the statements that lead there from
the one before, and a test that opens a file of the old version)::

    vhost(name)                                                        what exists ...
    exchange(vhost, name, type, auto_delete, internal, arguments)      ... and is durable;
    queue(id, vhost, name, auto_delete, arguments)                     arguments are AMQP field tables
    binding(vhost, source, destination, to_exchange, routing_key, arguments)
    message(id, route, header, body, crc)        bytes as published; CRC-32 of the three, in that order
    placement(queue, position, message, expires_ms, redelivered)       which message lies where
    quarantine(message, why, route, header, body)                      rows that failed their CRC: never delivered
    state(clean)                                 1: stopped in good order; 0: running, or it died

Rules (https://www.sqlite.org/wal.html and the measurements in docs/architecture.md): WAL, ``synchronous=FULL``, one
connection that holds the file exclusively, so that no second broker can open it and nobody else checkpoints; the
thread that writes also checkpoints. After any error nothing more is written: a failed sync is never tried again,
because what the disk then holds is not known.

After an unclean stop every recovered message counts as redelivered: a delivery may have left before the crash.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from leveret.amqp.properties import delivery_facts
from leveret.amqp.tables import decode_table, encode_table
from leveret.broker.core.journal import (
    Batch,
    BindingRecord,
    ExchangeRecord,
    Placement,
    QueueRecord,
    RemoveBinding,
    RemoveExchange,
    RemoveQueue,
    TopologyChange,
    VhostRecord,
)
from leveret.broker.core.message import Message
from leveret.broker.core.snapshot import Snapshot
from leveret.errors import AMQPError, DataFolderInUse, StorageCorrupt, StorageError

__all__ = ["FILE_NAME", "SQLiteStorage"]

FILE_NAME: Final = "broker.sqlite3"
FORMAT_VERSION: Final = 1
APPLICATION_ID: Final = 0x4C565254
"""``LVRT``, so that another program's database is not taken for ours."""
PAGE_BYTES: Final = 8192
WAL_BYTES_MAX: Final = 32 << 20
"""The write-ahead log is copied into the database when it has grown to this size, or when there is nothing to do."""

_SCHEMA: Final = """
CREATE TABLE vhost (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE exchange (
    vhost TEXT, name TEXT, type TEXT NOT NULL, auto_delete INTEGER NOT NULL, internal INTEGER NOT NULL,
    arguments BLOB NOT NULL, PRIMARY KEY (vhost, name)
) WITHOUT ROWID;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY, vhost TEXT NOT NULL, name TEXT NOT NULL, auto_delete INTEGER NOT NULL,
    arguments BLOB NOT NULL, UNIQUE (vhost, name)
);
CREATE TABLE binding (
    vhost TEXT, source TEXT, destination TEXT, to_exchange INTEGER, routing_key TEXT, arguments BLOB,
    PRIMARY KEY (vhost, source, destination, to_exchange, routing_key, arguments)
) WITHOUT ROWID;
CREATE TABLE message (
    id INTEGER PRIMARY KEY, route BLOB NOT NULL, header BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE placement (
    queue INTEGER, position INTEGER, message INTEGER NOT NULL, expires_ms INTEGER, redelivered INTEGER NOT NULL,
    PRIMARY KEY (queue, position)
) WITHOUT ROWID;
CREATE TABLE quarantine (message INTEGER, why TEXT, route BLOB, header BLOB, body BLOB);
CREATE TABLE state (clean INTEGER NOT NULL);
INSERT INTO state (clean) VALUES (1);
"""


class SQLiteStorage:
    """One broker's durable state in ``folder``; opened exclusively.

    Raises:
        DataFolderInUse: Another broker has it open.
        StorageError: The folder or the file cannot be used; the message says why.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._is_open = False
        self._is_broken = False
        try:
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"cannot open {self.path}: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise
        self._is_open = True

    def _prepare(self) -> None:
        execute = self._connection.execute
        try:
            execute("PRAGMA locking_mode=EXCLUSIVE")
            execute(f"PRAGMA page_size={PAGE_BYTES}")
            execute("PRAGMA journal_mode=WAL")
            execute("PRAGMA synchronous=FULL")
            execute("PRAGMA fullfsync=1")  # macOS: a plain fsync stays in the drive's cache there; no effect elsewhere
            execute("PRAGMA checkpoint_fullfsync=1")
            # In pages of the log as SQLite counts them: a commit of one small message may write three. It copies them
            # in the commit that goes over the limit, so in this thread.
            execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES_MAX // PAGE_BYTES}")
            execute("PRAGMA temp_store=MEMORY")
            execute("BEGIN IMMEDIATE")
            version = execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _SCHEMA.split(";"):
                    execute(statement)
                execute(f"PRAGMA user_version={FORMAT_VERSION}")
                execute(f"PRAGMA application_id={APPLICATION_ID}")
            elif execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StorageError(f"{self.path} is not a broker's file; choose another data folder")
            elif version != FORMAT_VERSION:
                raise StorageError(
                    f"{self.path} has format {version}, this version of Leveret reads format {FORMAT_VERSION}: "
                    "start the version that wrote it"
                )
            execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DataFolderInUse(
                    f"the data folder {self.path.parent} is in use by a running broker; stop that one, or choose another folder"
                ) from error
            raise StorageError(f"cannot use {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StorageCorrupt(f"{self.path} is damaged ({error}); move it away and start with an empty folder") from error

    # ------------------------------------------------------------------------------------------------ reading

    def load(self) -> Snapshot:
        """Return what was durable, and mark the file as in use (not clean) from now on."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            was_clean = bool(execute("SELECT clean FROM state").fetchone()[0])
            execute("UPDATE state SET clean = 0")
            messages = self._load_messages()
            placements: list[Placement] = [
                (queue, position, message, expires_ms, bool(redelivered) or not was_clean)
                for queue, position, message, expires_ms, redelivered in execute(
                    "SELECT queue, position, message, expires_ms, redelivered FROM placement ORDER BY queue, position"
                )
            ]
            snapshot = Snapshot(
                vhosts=[name for (name,) in execute("SELECT name FROM vhost ORDER BY name")],
                exchanges=[
                    ExchangeRecord(vhost, name, type_, bool(auto_delete), bool(internal), decode_table(arguments, 0)[0])
                    for vhost, name, type_, auto_delete, internal, arguments in execute(
                        "SELECT vhost, name, type, auto_delete, internal, arguments FROM exchange"
                    )
                ],
                queues=[
                    QueueRecord(id_, vhost, name, bool(auto_delete), decode_table(arguments, 0)[0])
                    for id_, vhost, name, auto_delete, arguments in execute(
                        "SELECT id, vhost, name, auto_delete, arguments FROM queue ORDER BY id"
                    )
                ],
                bindings=[
                    BindingRecord(vhost, source, destination, bool(to_exchange), key, decode_table(arguments, 0)[0])
                    for vhost, source, destination, to_exchange, key, arguments in execute(
                        "SELECT vhost, source, destination, to_exchange, routing_key, arguments FROM binding"
                    )
                ],
                messages=messages,
                placements=placements,
                last_queue_id=execute("SELECT coalesce(max(id), 0) FROM queue").fetchone()[0],
                quarantined=execute("SELECT count(*) FROM quarantine").fetchone()[0],
            )
            execute("COMMIT")
        except (sqlite3.Error, AMQPError) as error:
            raise StorageCorrupt(f"{self.path} cannot be read ({error}); move it away and start with an empty folder") from error
        return snapshot

    def _load_messages(self) -> list[Message]:
        """Read every message; what fails its CRC goes to the quarantine with its placements, never to a consumer."""
        messages: list[Message] = []
        bad: list[int] = []
        # What is no blob any more is damaged as well, and fails its check.
        blobs = ", ".join(f"CAST({column} AS BLOB)" for column in ("route", "header", "body"))
        rows = self._connection.execute(f"SELECT id, {blobs}, crc FROM message ORDER BY id")
        for id_, route, header, body, crc in rows:
            if _crc(route, header, body) != crc:
                bad.append(id_)
                continue
            _, priority, _ = delivery_facts(header)
            messages.append(Message(id_, route, header, body, True, priority, None))
        for id_ in bad:
            self._connection.execute(
                "INSERT INTO quarantine SELECT id, 'CRC mismatch', route, header, body FROM message WHERE id = ?", (id_,)
            )
            self._connection.execute("DELETE FROM message WHERE id = ?", (id_,))
            self._connection.execute("DELETE FROM placement WHERE message = ?", (id_,))
        return messages

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, batches: Sequence[Batch]) -> None:
        """Apply the batches in order in one transaction, synced when this returns."""
        connection = self._connection
        if self._is_broken:
            raise StorageError(f"cannot write {self.path}: an earlier write has failed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for batch in batches:
                for change in batch.topology:
                    self._apply(change)
                if batch.messages:
                    connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", _message_rows(batch.messages))
                if batch.placements:
                    connection.executemany("INSERT INTO placement VALUES (?, ?, ?, ?, ?)", batch.placements)
                if batch.removed:
                    connection.executemany("DELETE FROM placement WHERE queue = ? AND position = ?", batch.removed)
                if batch.released:
                    connection.executemany("DELETE FROM message WHERE id = ?", ((id_,) for id_ in batch.released))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._is_broken = True
            raise StorageError(f"cannot write {self.path}: {error}") from error

    def _apply(self, change: TopologyChange) -> None:
        execute = self._connection.execute
        match change:
            case VhostRecord(name=name):
                execute("INSERT OR IGNORE INTO vhost VALUES (?)", (name,))
            case ExchangeRecord():
                execute(
                    "INSERT OR REPLACE INTO exchange VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        change.vhost,
                        change.name,
                        change.type,
                        change.auto_delete,
                        change.internal,
                        encode_table(change.arguments),
                    ),
                )
            case QueueRecord():
                execute(
                    "INSERT INTO queue VALUES (?, ?, ?, ?, ?)",
                    (change.id, change.vhost, change.name, change.auto_delete, encode_table(change.arguments)),
                )
            case BindingRecord():
                execute("INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?, ?, ?)", _binding_row(change))
            case RemoveExchange(vhost=vhost, name=name):
                execute("DELETE FROM exchange WHERE vhost = ? AND name = ?", (vhost, name))
            case RemoveQueue(id=id_):
                execute("DELETE FROM queue WHERE id = ?", (id_,))
                execute("DELETE FROM placement WHERE queue = ?", (id_,))
            case RemoveBinding(binding=binding):
                execute(
                    "DELETE FROM binding WHERE vhost = ? AND source = ? AND destination = ? AND to_exchange = ? "
                    "AND routing_key = ? AND arguments = ?",
                    _binding_row(binding),
                )

    def idle(self) -> None:
        """Copy the write-ahead log into the database."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            self._is_broken = True
            raise StorageError(f"cannot write {self.path}: {error}") from error

    def close(self, redelivered: Sequence[tuple[int, int]] | None) -> None:
        """Close the file; with ``redelivered`` given, as a clean stop."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            if redelivered is not None and not self._is_broken:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("UPDATE placement SET redelivered = 1 WHERE queue = ? AND position = ?", redelivered)
                self._connection.execute("UPDATE state SET clean = 1")
                self._connection.execute("COMMIT")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self.path}: {error}") from error
        finally:
            self._connection.close()


def _crc(route: bytes, header: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(header, zlib.crc32(route)))


def _message_rows(messages: Sequence[Message]) -> Iterator[tuple[int, bytes, bytes, bytes, int]]:
    for message in messages:
        route, header, body = message.route, message.header, message.body
        yield message.id, route, header, body, _crc(route, header, body)


def _binding_row(binding: BindingRecord) -> tuple[str, str, str, bool, str, bytes]:
    return (
        binding.vhost,
        binding.source,
        binding.destination,
        binding.to_exchange,
        binding.routing_key,
        encode_table(binding.arguments),
    )
