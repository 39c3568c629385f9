"""Durable storage in one SQLite file: what is written is read back, and what cannot be is said clearly."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from leveret.amqp.tables import Table
from leveret.broker.core.journal import (
    Batch,
    BindingRecord,
    ExchangeRecord,
    QueueRecord,
    RemoveBinding,
    RemoveExchange,
    RemoveQueue,
    TopologyChange,
    VhostRecord,
)
from leveret.broker.core.message import Message
from leveret.broker.core.snapshot import Snapshot
from leveret.broker.server import open_storage
from leveret.broker.storage.sqlite import FILE_NAME, WAL_BYTES_MAX, SQLiteStorage
from leveret.errors import DataFolderInUse, StorageCorrupt, StorageError
from tests.support.core import CoreBroker, message


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    """A new storage."""
    opened = SQLiteStorage(tmp_path)
    yield opened
    opened.close(None)


def reload(storage: SQLiteStorage, *, clean: bool = True) -> Snapshot:
    """Close and read again what is on disk."""
    storage.close([] if clean else None)
    again = SQLiteStorage(storage.path.parent)
    try:
        return again.load()
    finally:
        again.close(None)


def fields(found: Message) -> tuple[object, ...]:
    """Return what makes a message."""
    return found.id, found.route, found.header, found.body, found.persistent, found.priority


ARGUMENTS: Table = {
    "text": "ä",
    "bytes": b"\xff\x00",
    "yes": True,
    "number": 5,
    "large": 1 << 40,
    "float": 0.1,
    "decimal": Decimal("1.25"),
    "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "void": None,
    "list": [1, "a", {"deep": []}],
}


# -------------------------------------------------------------------------------------------------- round trips


def test_a_new_storage_is_empty(storage: SQLiteStorage) -> None:
    """Nothing was durable before the first write."""
    found = storage.load()
    assert not any([found.vhosts, found.exchanges, found.queues, found.bindings, found.messages, found.placements])
    assert (found.last_queue_id, found.quarantined) == (0, 0)


def test_topology_comes_back_as_it_was(storage: SQLiteStorage) -> None:
    """Vhosts, exchanges, queues and bindings, with every type of argument."""
    storage.load()
    exchanges = [
        ExchangeRecord("/", "x", "topic", True, False, ARGUMENTS),
        ExchangeRecord("other", "x", "fanout", False, True, {}),
    ]
    queues = [QueueRecord(1, "/", "q", True, ARGUMENTS), QueueRecord(2, "other", "q", False, {})]
    bindings = [
        BindingRecord("/", "x", "q", False, "key", ARGUMENTS),
        BindingRecord("/", "x", "q", False, "key", {}),
        BindingRecord("/", "x", "x", True, "key", {}),
    ]
    storage.write([Batch(1, topology=[VhostRecord("/"), VhostRecord("other"), *exchanges, *queues, *bindings])])
    found = reload(storage)
    assert (list(found.vhosts), found.last_queue_id) == (["/", "other"], 2)
    assert list(found.exchanges) == exchanges
    assert list(found.queues) == queues
    assert all(each in found.bindings for each in bindings)
    assert len(found.bindings) == 3


def test_removed_topology_is_gone(storage: SQLiteStorage) -> None:
    """What was removed, in the same batch or later, does not come back; a queue takes its placements along."""
    storage.load()
    kept = BindingRecord("/", "x", "q", False, "other", {})
    gone = BindingRecord("/", "x", "q", False, "key", {"n": 1})
    topology: list[TopologyChange] = [
        ExchangeRecord("/", "x", "direct", False, False, {}),
        QueueRecord(1, "/", "q", False, {}),
        kept,
        gone,
    ]
    storage.write([Batch(1, topology=topology, messages=[message(1)], placements=[(1, 1, 1, None, False)])])
    again = QueueRecord(2, "/", "q", True, {})
    changes: list[TopologyChange] = [RemoveBinding(gone), RemoveExchange("/", "x"), RemoveQueue(1), again, RemoveQueue(2), again]
    storage.write([Batch(2, topology=changes)])
    found = reload(storage)
    assert (list(found.exchanges), list(found.queues), list(found.bindings)) == ([], [again], [kept])
    assert list(found.placements) == []


def test_messages_come_back_in_order(storage: SQLiteStorage) -> None:
    """Messages as published, placements by queue and position, with expiry and redelivery."""
    storage.load()
    messages = [message(1, b"", priority=3), message(2, bytes(range(256)) * 100), message(3, b"x", expiration="5")]
    placements = [(2, 1, 1, None, False), (1, 9, 3, 1_800_000_000_123, False), (1, 4, 2, None, True), (1, 5, 1, None, False)]
    storage.write([Batch(1, messages=messages[:2]), Batch(2, messages=messages[2:], placements=placements)])
    found = reload(storage)
    assert [fields(each) for each in found.messages] == [fields(each) for each in messages]
    assert list(found.placements) == sorted(placements)


def test_removed_and_released_are_gone(storage: SQLiteStorage) -> None:
    """An acknowledged message leaves its queue, and its bytes go with the last placement."""
    storage.load()
    storage.write([Batch(1, messages=[message(1), message(2)], placements=[(1, 1, 1, None, False), (1, 2, 2, None, False)])])
    storage.write([Batch(2, removed=[(1, 1)], released=[1])])
    found = reload(storage)
    assert [each.id for each in found.messages] == [2]
    assert list(found.placements) == [(1, 2, 2, None, False)]


def test_a_transaction_is_whole_or_not_at_all(storage: SQLiteStorage) -> None:
    """When a batch fails, nothing of its transaction is on disk, and nothing is written after it."""
    storage.load()
    storage.write([Batch(1, messages=[message(1)], placements=[(1, 1, 1, None, False)])])
    good = Batch(2, messages=[message(2)], placements=[(1, 2, 2, None, False)])
    with pytest.raises(StorageError, match=r"cannot write .*broker\.sqlite3: UNIQUE constraint failed"):
        storage.write([good, Batch(3, messages=[message(1)])])
    with pytest.raises(StorageError, match="an earlier write has failed"):
        storage.write([good])
    found = reload(storage)
    assert [each.id for each in found.messages] == [1]


def test_full_disk_is_a_storage_error(storage: SQLiteStorage) -> None:
    """What does not fit is not half written; what was there before stays, as after a crash."""
    storage.load()
    storage.write([Batch(1, messages=[message(1)], placements=[(1, 1, 1, None, False)])])
    storage._connection.execute("PRAGMA max_page_count=30")
    with pytest.raises(StorageError, match="database or disk is full"):
        storage.write([Batch(2, messages=[message(2, bytes(1 << 20))], placements=[(1, 2, 2, None, False)])])
    found = reload(storage)  # even if told that this was a clean stop
    assert list(found.placements) == [(1, 1, 1, None, True)]


# ------------------------------------------------------------------------------------------- clean and unclean


@pytest.mark.parametrize("clean", [True, False])
def test_after_a_clean_stop_the_flags_are_exact(tmp_path: Path, clean: bool) -> None:
    """A clean stop knows what was delivered; after a crash everything may have been (invariant I3)."""
    broker = CoreBroker(SQLiteStorage(tmp_path))
    client = broker.connect()
    client.declare("q", durable=True)
    client.publish_all("q", [b"held", b"returned", b"untouched"])
    client.qos(2)
    client.consume("q")
    client.take()
    client.nack(2, requeue=True)
    broker.turn()
    broker.commit()
    if clean:
        broker.stop()
    else:
        broker.crash()
    for _ in range(2):  # flags survive a second stop as well
        broker = CoreBroker(SQLiteStorage(tmp_path))
        queue = broker.core.vhosts["/"].queues["q"]
        assert [(each.message.body, each.redelivered) for each in queue.backlog] == [
            (b"held", True),
            (b"returned", True),
            (b"untouched", not clean),
        ]
        broker.stop()


def test_recovered_messages_are_settled_on_disk_too(tmp_path: Path) -> None:
    """What is acknowledged after a restart does not come back with the next one; new messages get new ids."""
    broker = CoreBroker(SQLiteStorage(tmp_path))
    client = broker.connect()
    client.declare("q", durable=True)
    client.publish_all("q", [b"0", b"1"])
    broker.stop()
    broker = CoreBroker(SQLiteStorage(tmp_path))
    client = broker.connect()
    client.get("q", no_ack=True)
    client.publish("q", b"2")
    broker.stop()
    broker = CoreBroker(SQLiteStorage(tmp_path))
    assert broker.ready("q") == [b"1", b"2"]
    broker.stop()


def test_topology_is_alive_after_a_restart(tmp_path: Path) -> None:
    """Recovered exchanges route, queues expire and dead-letter, transient and exclusive things are gone."""
    broker = CoreBroker(SQLiteStorage(tmp_path))
    client = broker.connect()
    client.declare("letters", durable=True)
    client.declare(
        "q",
        durable=True,
        arguments={"x-message-ttl": 5000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"},
    )
    client.declare("transient")
    client.declare("exclusive", exclusive=True, durable=True)
    client.declare_exchange("x", "topic", durable=True)
    client.declare_exchange("gone", "topic")
    client.bind("q", "x", "a.*")
    client.bind("transient", "x", "#")
    client.bind("q", "amq.headers", "", {"x-match": "any", "n": 1})
    client.publish("a.1", b"routed", exchange_name="x")
    client.publish("transient", b"lost")
    client.publish("q", b"lost too", persistent=False)
    broker.stop()

    broker = CoreBroker(SQLiteStorage(tmp_path), now_s=broker.now_s + 3)
    vhost = broker.core.vhosts["/"]
    assert set(vhost.queues) == {"q", "letters"}
    assert {"x", "gone"} & set(vhost.exchanges) == {"x"}
    assert broker.ready("q") == [b"routed"]
    client = broker.connect()
    client.publish("a.2", b"new", exchange_name="x")
    client.publish("", b"by header", exchange_name="amq.headers", headers={"n": 1})
    broker.advance(2.5)  # the time to live ran on while the broker was down
    assert (broker.ready("q"), broker.ready("letters")) == ([b"new", b"by header"], [b"routed"])
    broker.stop()


def test_messages_without_a_place_are_dropped_at_recovery(tmp_path: Path) -> None:
    """A message that lies in no queue is deleted by the first write after a restart."""
    storage = SQLiteStorage(tmp_path)
    storage.load()
    storage.write([Batch(1, messages=[message(1)])])
    storage.close(None)
    broker = CoreBroker(SQLiteStorage(tmp_path))
    broker.turn()
    broker.commit()
    broker.crash()
    storage = SQLiteStorage(tmp_path)
    assert list(storage.load().messages) == []
    storage.close(None)


# ------------------------------------------------------------------------------------------------------- damage


def edit(path: Path, *statements: str) -> None:
    """Change a closed file behind the storage's back."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("column", ["route", "header", "body"])
def test_message_that_fails_its_check_is_put_aside(storage: SQLiteStorage, column: str) -> None:
    """A flipped bit never reaches a consumer: the message goes to the quarantine, the others are delivered."""
    storage.load()
    placements = [(1, number, number, None, False) for number in (1, 2)]
    storage.write([Batch(1, messages=[message(1, b"good"), message(2, b"bad!")], placements=placements)])
    storage.close([])
    edit(storage.path, f"UPDATE message SET {column} = CAST(substr({column}, 2) || x'7f' AS BLOB) WHERE id = 2")
    found = reload(SQLiteStorage(storage.path.parent))
    assert [each.body for each in found.messages] == [b"good"]
    assert [each[2] for each in found.placements] == [1]
    assert found.quarantined == 1
    assert reload(SQLiteStorage(storage.path.parent)).quarantined == 1
    connection = sqlite3.connect(storage.path)
    assert connection.execute("SELECT message, why FROM quarantine").fetchall() == [(2, "CRC mismatch")]
    connection.close()


def test_placement_of_a_missing_message_is_corruption(tmp_path: Path) -> None:
    """Records that do not fit together stop the start, with words."""
    storage = SQLiteStorage(tmp_path)
    storage.load()
    storage.write([Batch(1, topology=[QueueRecord(1, "/", "q", False, {})], placements=[(1, 1, 7, None, False)])])
    storage.close([])
    edit(storage.path, "INSERT INTO vhost VALUES ('/')")
    storage = SQLiteStorage(tmp_path)
    with pytest.raises(StorageCorrupt, match="placement 1 of queue 1 names message 7, which is not stored"):
        CoreBroker(storage)
    storage.close(None)


def test_an_empty_file_becomes_a_storage(tmp_path: Path) -> None:
    """A file without content is as good as none."""
    (tmp_path / FILE_NAME).touch()
    SQLiteStorage(tmp_path).close([])


def test_garbage_is_not_taken_for_ours(tmp_path: Path) -> None:
    """What is no database is refused, with what to do."""
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageCorrupt, match=r"is damaged .*; move it away and start with an empty folder"):
        SQLiteStorage(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A database that is not ours is left as it is."""
    edit(tmp_path / FILE_NAME, "CREATE TABLE recipes (name)")
    with pytest.raises(StorageError, match="is not a broker's file; choose another data folder"):
        SQLiteStorage(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == ["recipes"]
    connection.close()


def test_a_newer_format_is_refused(storage: SQLiteStorage) -> None:
    """A file of a later version says which version it needs."""
    storage.close([])
    edit(storage.path, "PRAGMA user_version=2")
    with pytest.raises(StorageError, match="has format 2, this version of Leveret reads format 1: start the version that wrote"):
        SQLiteStorage(storage.path.parent)


# -------------------------------------------------------------------------------------------------- who may open


def test_only_one_broker_at_a_time(storage: SQLiteStorage) -> None:
    """A second opener, of this process or another, is told that a broker is running there; after it there is room."""
    folder = storage.path.parent
    storage.load()
    with pytest.raises(DataFolderInUse, match=f"the data folder {folder} is in use by a running broker; stop that one"):
        SQLiteStorage(folder)
    program = f"""
from pathlib import Path
from leveret.broker.storage.sqlite import SQLiteStorage
from leveret.errors import DataFolderInUse
try:
    SQLiteStorage(Path({str(folder)!r}))
except DataFolderInUse:
    print("in use")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "in use\n"
    storage.write([Batch(1, topology=[VhostRecord("/")])])  # the first one is not disturbed
    assert list(reload(storage).vhosts) == ["/"]


def as_nobody(act: Callable[[], object]) -> str:
    """Call in a child process that has no special rights; return its exception as text, or ``done``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
            said = "done"
        except BaseException:
            said = traceback.format_exc(limit=0)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as pipe:
        return pipe.read()


@pytest.mark.parametrize("make", [open_storage, SQLiteStorage])
def test_read_only_folder_is_a_storage_error(make: Callable[[Path], object]) -> None:
    """A folder that may not be written to is named, with what to do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        said = as_nobody(lambda: make(folder))
        folder.chmod(0o755)
    if make is open_storage:
        assert f"StorageError: the data folder {folder} is not writable; choose another, or give yourself the right" in said
    else:
        assert f"StorageError: cannot open {folder / FILE_NAME}: unable to open database file" in said


def test_read_only_file_is_a_storage_error() -> None:
    """A file that may not be written to is named."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        SQLiteStorage(folder).close([])
        folder.chmod(0o777)
        (folder / FILE_NAME).chmod(0o444)
        said = as_nobody(lambda: open_storage(folder))
    assert f"StorageError: {folder / FILE_NAME} is not writable; give yourself the right to write to it" in said


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    """A path that leads through a file is named, with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot make the data folder .*/file/data: Not a directory; choose one that you may"):
        open_storage(tmp_path / "file" / "data")


def test_a_new_data_folder_is_private(tmp_path: Path) -> None:
    """What others send through the broker is nobody else's to read."""
    open_storage(tmp_path / "new" / "data").close([])
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700


# ------------------------------------------------------------------------------------------------- how it writes


def test_every_commit_is_synced_and_the_file_is_ours_alone(storage: SQLiteStorage) -> None:
    """WAL, synchronous=FULL, exclusive locking (docs/architecture.md)."""

    def pragma(name: str) -> object:
        return storage._connection.execute(f"PRAGMA {name}").fetchone()[0]

    found = {name: pragma(name) for name in ("journal_mode", "synchronous", "locking_mode", "page_size")}
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "locking_mode": "exclusive",
        "page_size": 8192,
    }
    storage.load()
    assert not storage.path.with_name(FILE_NAME + "-shm").exists()


def test_write_ahead_log_is_bounded(storage: SQLiteStorage) -> None:
    """The log is copied into the database before it grows without end, and a quiet moment does it too."""
    storage.load()
    log = storage.path.with_name(FILE_NAME + "-wal")
    body = bytes(1 << 20)
    for number in range(1, 81):
        storage.write([Batch(number, messages=[message(number, body)], released=[number])])
    assert log.stat().st_size < 1.2 * WAL_BYTES_MAX
    # Small messages one by one: each writes whole pages of the log.
    for number in range(100, 3100):
        storage.write([Batch(number, messages=[message(number)], placements=[(1, number, number, None, False)])])
    assert log.stat().st_size < 1.2 * WAL_BYTES_MAX
    before = storage.path.stat().st_size
    storage.write([Batch(4000, messages=[message(1, body), message(2, body)])])
    storage.idle()
    assert storage.path.stat().st_size > before


def test_closing_twice_is_harmless(storage: SQLiteStorage) -> None:
    """The second close does nothing, and cannot unmake the first one's word."""
    storage.load()
    storage.close([])
    storage.close(None)
    again = SQLiteStorage(storage.path.parent)
    assert again._connection.execute("SELECT clean FROM state").fetchone() == (1,)
    again.close(None)
