"""The results file: stored at once, read by others, never overwritten once good."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret.errors import MessageError, StorageCorrupt, StorageError
from leveret.results.meta import encode_failure, encode_success
from leveret.results.sqlite import SqliteReader, SqliteWriter
from leveret.tasks.states import State
from tests.support.clocks import SetClock

WRITER_PROGRAM = """
import sys
from pathlib import Path
from leveret.results.meta import encode_success
from leveret.results.sqlite import SqliteWriter
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
writer = SqliteWriter(path, expires_s=60)
for number in range(count):
    writer.store([encode_success(f"{name}-{number}-{part}", number, now_s=0) for part in range(5)])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that does not exist yet, in a folder that does not either."""
    return tmp_path / "results" / "shop.sqlite"


@pytest.fixture
def writer(path: Path) -> Iterator[SqliteWriter]:
    """Open the worker's side."""
    writer = SqliteWriter(path, expires_s=3600)
    yield writer
    writer.close()


@pytest.fixture
def reader(path: Path) -> Iterator[SqliteReader]:
    """Open the producer's side."""
    reader = SqliteReader(path)
    yield reader
    reader.close()


def success(task_id: str, value: object = 1) -> bytes:
    """Encode a success."""
    return encode_success(task_id, value, now_s=0)


def failure(task_id: str, state: State = State.FAILURE) -> bytes:
    """Encode something else."""
    return encode_failure(task_id, state, ValueError("no"), now_s=0)


def rows(path: Path) -> list[tuple[str, str]]:
    """Return (task id, status) of every row, in the order they were written."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT task_id, status FROM results ORDER BY seq").fetchall()
    finally:
        connection.close()


def test_what_is_stored_is_read(writer: SqliteWriter, reader: SqliteReader) -> None:
    """A result is there for every reader as soon as store has returned; what is not stored is unknown."""
    writer.store([success("a", {"x": [1]}), failure("b")])
    latest = reader.latest("a")
    assert latest is not None
    assert (latest.state, latest.result) == (State.SUCCESS, {"x": [1]})
    assert reader.latest("b").state is State.FAILURE  # type: ignore[union-attr]  # it was stored
    assert reader.latest("c") is None


def test_a_success_is_never_overwritten(writer: SqliteWriter, path: Path) -> None:
    """A task that ran twice keeps its success, whatever the second run came to; other states give way."""
    writer.store([failure("a", State.RETRY)])
    writer.store([success("a", 1)])
    writer.store([failure("a"), success("a", 2)])
    writer.store([failure("b"), success("b")])
    assert rows(path) == [("a", "SUCCESS"), ("b", "SUCCESS")]


def test_a_batch_is_stored_whole_or_not_at_all(writer: SqliteWriter, path: Path) -> None:
    """One meta that is none leaves nothing of its batch."""
    with pytest.raises(MessageError):
        writer.store([success("a"), b"nonsense"])
    assert rows(path) == []


def test_a_watch_returns_each_result_once(writer: SqliteWriter, reader: SqliteReader) -> None:
    """Those that are there at first, then those that come; states before the end are passed over."""
    writer.store([success("a"), success("other")])
    watch = reader.watch(["a", "b", "c"])
    assert [meta.task_id for meta in watch.next(0)] == ["a"]
    assert watch.next(0) == []
    writer.store([failure("b", State.RETRY), success("more")])
    assert watch.next(0) == []
    writer.store([failure("b"), success("c")])
    assert [(meta.task_id, meta.state) for meta in watch.next(0)] == [("b", State.FAILURE), ("c", State.SUCCESS)]
    assert watch.next(None) == []  # none is left: no wait


def test_a_replaced_row_is_seen_by_a_watch(writer: SqliteWriter, reader: SqliteReader) -> None:
    """The newest row may be replaced; the number of a row is never given out again, so the change is not missed."""
    watch = reader.watch(["a"])
    writer.store([failure("a", State.RETRY)])
    assert watch.next(0) == []
    writer.store([success("a")])
    assert [meta.state for meta in watch.next(0)] == [State.SUCCESS]


def test_a_watch_waits_for_another_thread(writer: SqliteWriter, reader: SqliteReader) -> None:
    """The call returns when the result is stored, long before its time is over."""
    watch = reader.watch(["a"])
    assert watch.next(0) == []
    thread = threading.Thread(target=writer.store, args=([success("a")],))
    thread.start()
    assert [meta.task_id for meta in watch.next(30)] == ["a"]
    thread.join()


def test_many_results_are_watched_at_once(writer: SqliteWriter, reader: SqliteReader) -> None:
    """More ids than one statement takes, some there before and some after."""
    ids = [f"id-{number}" for number in range(2500)]
    writer.store([success(task_id) for task_id in ids[:1200]])
    watch = reader.watch(ids)
    found = {meta.task_id for meta in watch.next(0)}
    writer.store([success(task_id) for task_id in ids[1200:]])
    found |= {meta.task_id for meta in watch.next(0)}
    assert found == set(ids)


def test_expired_results_are_deleted(path: Path, reader: SqliteReader) -> None:
    """The writer cleans up as it goes: a result is gone some time after it has expired, not before."""
    clock = SetClock()
    writer = SqliteWriter(path, expires_s=100, clock=clock)
    writer.store([success("old")])
    clock.advance(99)
    writer.store([success("new")])
    assert rows(path) == [("old", "SUCCESS"), ("new", "SUCCESS")]
    clock.advance(61)
    writer.store([success("newer")])
    assert rows(path) == [("new", "SUCCESS"), ("newer", "SUCCESS")]
    writer.close()
    assert reader.latest("old") is None


def test_the_file_is_its_users_alone(writer: SqliteWriter, path: Path) -> None:
    """Results may be secrets: nobody else reads the file, its log or its folder."""
    writer.store([success("a")])
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_is_durable_and_knows_its_version(writer: SqliteWriter, path: Path) -> None:
    """WAL with a sync at every commit; the file names its program and its format."""
    connection = writer._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA application_id").fetchone() == (0x4C565254,)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize("damage", [b"this is no database at all, just some text that is long enough", None])
def test_a_damaged_file_is_told_with_what_to_do(path: Path, damage: bytes | None) -> None:
    """The error names the file and the way out, for text as for a database with a torn page."""
    writer = SqliteWriter(path, expires_s=60)
    writer.store([success(f"id-{number}", "x" * 200) for number in range(200)])
    writer.close()
    content = bytearray(path.read_bytes())
    content[: len(damage or b"")] = damage or b""
    if damage is None:
        content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt) as caught:
        SqliteWriter(path, expires_s=60).store([success("a")])
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)


def test_files_of_others_are_left_alone(path: Path) -> None:
    """Another program's database, and one of a later format, are refused and not touched."""
    path.parent.mkdir()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE users (name TEXT)")
    foreign.commit()
    with pytest.raises(StorageError, match="of another program"):
        SqliteWriter(path, expires_s=60)
    foreign.execute("DROP TABLE users")
    foreign.execute("PRAGMA application_id = 0x4C565254")
    foreign.execute("PRAGMA user_version = 2")
    foreign.commit()
    foreign.close()
    with pytest.raises(StorageError, match="format 2"):
        SqliteWriter(path, expires_s=60)


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"shop\.sqlite"):
        SqliteWriter(tmp_path / "file" / "shop.sqlite", expires_s=60)


def test_closing_twice_is_closing_once(writer: SqliteWriter, reader: SqliteReader) -> None:
    """After close nothing can be stored; a reader opens the file again when it is asked."""
    writer.store([success("a")])
    writer.close()
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.store([success("b")])
    assert reader.latest("a") is not None
    reader.close()
    reader.close()
    assert reader.latest("a") is not None


def test_two_processes_write_at_once(path: Path, reader: SqliteReader) -> None:
    """Neither loses a result nor gives up, from making the file on; a third process reads all of it."""
    count = 60
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER_PROGRAM, str(path), name, str(count)], stdin=subprocess.PIPE)
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    ids = {f"{name}-{number}-{part}" for name in ("a", "b") for number in range(count) for part in range(5)}
    watch = reader.watch(ids)
    found: set[str] = set()
    while found != ids:
        metas = watch.next(30)
        assert metas
        found.update(meta.task_id for meta in metas)
    for process in processes:
        process.communicate()
        assert process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_reads_for_itself(writer: SqliteWriter, reader: SqliteReader) -> None:
    """The child leaves its parent's connection alone and opens its own; the parent's goes on working."""
    writer.store([success("a")])
    assert reader.latest("a") is not None
    child = os.fork()
    if not child:
        os._exit(0 if reader.latest("a") is not None and reader.watch(["a"]).next(0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.store([success("b")])
    assert reader.latest("b") is not None
