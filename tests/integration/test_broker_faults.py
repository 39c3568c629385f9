"""The broker's shell inside this process, where a test can break parts of it: faults stay where they are."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from leveret.amqp.methods import basic, queue
from leveret.broker import connection as connection_module
from leveret.broker import server as server_module
from leveret.broker.connection import ClientConnection
from leveret.broker.core.broker import Broker
from leveret.broker.core.channel import Channel
from leveret.broker.core.journal import Batch
from leveret.broker.core.queue import Queue
from leveret.broker.core.session import Session
from leveret.broker.server import UNWRITTEN_BYTES_MAX, BrokerConfig, BrokerServer
from leveret.broker.storage.memory import MemoryStorage
from leveret.broker.storage.sqlite import FILE_NAME
from leveret.errors import ConfigurationError, InternalError, StorageError
from tests.support.peer import Peer
from tests.support.processes import free_port
from tests.support.waiting import wait_until

T = TypeVar("T")
MIB = 1 << 20


class Running:
    """A broker on a loop in a thread of its own."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.unhandled: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = BrokerServer(BrokerConfig(port=0, **options))
        try:
            self.do(self.server.start())
        except BaseException:
            self.end()
            raise
        self.port = self.server.address[1]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the broker's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        """Stop the broker, then the loop."""
        self.do(self.server.stop())
        self.end()

    def end(self) -> None:
        """Stop the loop, without asking the broker."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Start brokers that are stopped with the test; nothing may have fallen through to the event loop."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        if not running.loop.is_closed():
            running.stop()
        assert running.unhandled == []


class Trap:
    """Raises once, where it is put in place of a function, when the test has armed it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.is_armed = False
        original = getattr(owner, name)

        def trap(*args: Any, **kwargs: Any) -> Any:
            if self.is_armed:
                self.is_armed = False
                raise RuntimeError("a bug")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, trap)


def still_works(peer: Peer, name: str = "other") -> None:
    """Check that a client can declare, publish, consume and acknowledge."""
    peer.declare(name)
    peer.confirm_select()
    peer.publish(name, b"x")
    peer.wait_confirmed(peer.confirmed + 1)
    peer.call(basic.Consume(queue=name, consumer_tag=name), basic.ConsumeOk)
    (delivery,) = peer.wait_delivered(1)
    peer.ack(delivery[3])
    assert peer.count(name) == 0


# ------------------------------------------------------------------------------------------------------- bugs


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Session, "handle"), (Channel, "publish"), (Channel, "settle"), (ClientConnection, "_encode"), (Session, "take_outbox")],
)
def test_a_bug_in_serving_one_client_closes_that_connection(
    run: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    name: str,
) -> None:
    """An unexpected exception is logged with its traceback, that client gets 541, the others and the broker go on."""
    trap = Trap(monkeypatch, owner, name)
    running = run()
    with Peer(running.port) as victim, Peer(running.port) as other:
        victim.declare("q")
        victim.publish("q", b"1", persistent=False)
        victim.call(basic.Consume(queue="q"), basic.ConsumeOk)
        victim.wait_delivered(1)
        trap.is_armed = True
        if name == "settle":
            victim.ack(1)
        else:
            victim.publish("q", b"2", persistent=False)
        if name != "publish":
            victim.send(queue.Declare(queue="q", passive=True))
        reason = victim.wait_closed()
        assert isinstance(reason, InternalError)
        assert reason.reply_text == "INTERNAL_ERROR - unexpected error in the broker; its log has more"
        still_works(other)
        assert other.count("q") >= 1  # what the victim held is back
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])


def test_a_bug_in_closing_a_session_does_not_keep_its_connection(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that cannot be cleaned up after is gone all the same; the broker can still stop."""
    trap = Trap(monkeypatch, Session, "close")
    running = run()
    with Peer(running.port) as victim:
        victim.declare("q")
        trap.is_armed = True
    wait_until(lambda: not running.server._connections, 10, "the connection to be forgotten")
    with Peer(running.port) as other:
        still_works(other)
    assert "unexpected error while ending the session" in caplog.text


def test_a_bug_in_one_queue_does_not_stop_the_others(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliveries, confirms and timers of other queues go on behind an unexpected exception."""
    original = Queue.next_consumer

    def fail_for_bad(self: Queue) -> object:
        if self.name == "bad":
            raise RuntimeError("a bug")
        return original(self)

    monkeypatch.setattr(Queue, "next_consumer", fail_for_bad)
    running = run()
    with Peer(running.port) as one, Peer(running.port) as other:
        one.declare("bad")
        one.call(basic.Consume(queue="bad"), basic.ConsumeOk)
        other.declare("good")
        other.call(basic.Consume(queue="good"), basic.ConsumeOk)
        one.engine.write(one.publish_bytes("bad", b"") + one.publish_bytes("good", b"1"))
        one.flush()
        other.wait_delivered(1)
    assert "unexpected error while delivering; going on with the next queue" in caplog.text


def test_a_bug_in_the_timer_does_not_stop_the_timer(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What expires after an unexpected exception still expires."""
    trap = Trap(monkeypatch, Broker, "tick")
    running = run()
    trap.is_armed = True
    with Peer(running.port) as peer:
        for name, ttl in [("first", 50), ("second", 300)]:
            peer.call(queue.Declare(queue=name, arguments={"x-expires": ttl}), queue.DeclareOk)
        wait_until(lambda: "second" not in running.server.broker.vhosts["/"].queues, 10, "the second queue to expire")
    assert "unexpected error while expiring messages" in caplog.text


# -------------------------------------------------------------------------------------------- time and patience


def test_a_handshake_has_a_time_limit(run: Callable[..., Running]) -> None:
    """Who does not get through the handshake in time is cut off, however slowly it goes on talking (slow loris)."""
    running = run(handshake_timeout_s=0.5)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        started_s = time.monotonic()
        client.sendall(b"AMQP")
        assert client.recv(1000) == b""
        assert 0.4 < time.monotonic() - started_s < 3
    wait_until(lambda: not running.server._connections, 5, "the connection to be forgotten")
    with Peer(running.port) as peer:  # and who was in time stays
        time.sleep(0.7)
        still_works(peer)


@pytest.mark.parametrize(
    ("limit", "body_bytes"),
    [
        # It says goodbye, and takes nothing of what is on its way.
        ("LAST_WORDS_TIMEOUT_S", 8 * MIB),
        # So much is on its way that nothing it says is read any more, not even its heartbeats.
        ("DEAF_TIMEOUT_S", 20 * MIB),
    ],
)
def test_a_client_that_reads_no_more_cannot_hold_its_connection(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, limit: str, body_bytes: int
) -> None:
    """Who takes nothing has its time, then the connection is cut and what it held is back."""
    monkeypatch.setattr(connection_module, limit, 0.3)
    running = run()
    with Peer(running.port, receive_buffer_bytes=4096) as peer:
        peer.declare("q")
        peer.publish("q", bytes(body_bytes), persistent=False)
        peer.call(basic.Consume(queue="q"), basic.ConsumeOk)
        wait_until(lambda: not running.server.broker.vhosts["/"].queues["q"].backlog, 10, "the delivery to be under way")
        peer.engine.close()
        peer.flush()
        wait_until(lambda: not running.server._connections, 5, "the connection to be cut")
        assert len(running.server.broker.vhosts["/"].queues["q"].backlog) == 1


def test_a_client_that_reads_slowly_is_left_in_peace(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes something, it may take its time."""
    monkeypatch.setattr(connection_module, "DEAF_TIMEOUT_S", 0.5)
    running = run()
    with Peer(running.port, receive_buffer_bytes=128 * 1024) as peer:
        peer.declare("q")
        peer.publish("q", bytes(40 * MIB), persistent=False)
        peer.send(basic.Consume(queue="q", no_ack=True))
        peer.flush()
        started_s = time.monotonic()
        while not peer.deliveries:
            peer.take(peer.socket.recv(64 * 1024))
            time.sleep(0.002)
        assert time.monotonic() - started_s > 0.5
        assert len(peer.deliveries[0][7]) == 40 * MIB


def test_heartbeats_are_not_expected_while_we_do_not_read(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose bytes wait in our own socket is not dead."""
    disk = Disk()
    monkeypatch.setattr(server_module, "open_storage", lambda data: disk)
    running = run()
    disk.may_write.clear()
    with Peer(running.port, heartbeat_s=1) as peer:
        peer.send(queue.Declare(queue="q", durable=True))
        peer.flush()
        wait_until(lambda: running.server._resting, 5, "the client to wait for the disk")
        time.sleep(3.5)
        disk.may_write.set()
        assert peer.receive(queue.DeclareOk)[0].queue == "q"


# ---------------------------------------------------------------------------------------------------- the disk


class Disk(MemoryStorage):
    """A storage that writes when it may, and fails when it is told to."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.may_write.set()
        self.error: Exception | None = None
        self.closed_with: object = "open"

    def write(self, batches: Sequence[Batch]) -> None:
        """Wait, then write or fail."""
        assert self.may_write.wait(20)
        if self.error is not None:
            raise self.error

    def close(self, redelivered: Sequence[tuple[int, int]] | None) -> None:
        """Keep how it was closed."""
        self.closed_with = redelivered


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The storage of the next broker."""
    made = Disk()
    monkeypatch.setattr(server_module, "open_storage", lambda data: made)
    return made


def test_a_flood_waits_for_the_disk(run: Callable[..., Running], disk: Disk) -> None:
    """While the disk is behind nothing is read: a publisher that never waits for confirms is held by TCP, not by memory."""
    running = run()
    with Peer(running.port) as flood, Peer(running.port) as consumer:
        flood.declare("q", durable=True)
        consumer.declare("transient")
        disk.may_write.clear()
        chunk = flood.publish_bytes("q", bytes(100_000)) * 10
        sent = threading.Event()

        def send_all() -> None:
            for _ in range(150):
                flood.socket.sendall(chunk)
            sent.set()

        threading.Thread(target=send_all, daemon=True).start()
        wait_until(lambda: running.server.is_behind, 20, "the broker to be behind")
        assert not sent.wait(0.5)
        assert running.server._unwritten_bytes < UNWRITTEN_BYTES_MAX + 4 * MIB
        disk.may_write.set()
        assert sent.wait(20)
        wait_until(lambda: not running.server.is_behind, 20, "the disk to catch up")
        assert flood.count("q") == 1500
        still_works(consumer)


def test_an_unexpected_failure_of_the_storage_stops_the_broker(
    run: Callable[..., Running], disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while writing: nothing is confirmed, clients get 541, the file is not closed as clean."""
    running = run()
    with Peer(running.port) as peer, Peer(running.port) as declaring:
        peer.declare("q", durable=True)
        peer.confirm_select()
        disk.error = ValueError("no disk can do that")
        declaring.send(queue.Declare(queue="other", durable=True))
        declaring.flush()
        peer.publish("q", b"x")
        for each in (peer, declaring):
            assert isinstance(each.wait_closed(), InternalError)
        assert peer.confirmed == 0
        assert not declaring.methods
    with pytest.raises(StorageError, match="no disk can do that"):
        running.do(running.server.serve())
    assert disk.closed_with is None
    assert "stopping: nothing more can be confirmed" in caplog.text


def test_a_start_that_fails_does_not_forget_what_was_redelivered(run: Callable[..., Running], tmp_path: Path) -> None:
    """After a crash everything is redelivered, also if the start in between found its port in use."""
    running = run(data=tmp_path)
    with Peer(running.port) as peer:
        peer.declare("q", durable=True)
        peer.confirm_select()
        peer.publish("q", b"x")
        peer.wait_confirmed(1)
    running.stop()
    file = sqlite3.connect(tmp_path / FILE_NAME)
    file.execute("UPDATE state SET clean = 0")  # as after kill -9
    file.commit()
    file.close()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        server = BrokerServer(BrokerConfig(port=port, data=tmp_path))
        with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use by another program; choose another"):
            running_start(server)
    running = run(data=tmp_path)
    with Peer(running.port) as peer:
        got, _ = call_with_body(peer, basic.Get(queue="q", no_ack=True))
        assert got.redelivered


def running_start(server: BrokerServer) -> None:
    """Start a broker on a loop of its own."""
    asyncio.run(server.start())


def call_with_body(peer: Peer, method: basic.Get) -> tuple[basic.GetOk, bytes | None]:
    """Get a message."""
    peer.send(method)
    return peer.receive(basic.GetOk)


def test_stop_is_safe_at_any_time() -> None:
    """Before start, twice, and at once from two sides."""

    async def main() -> None:
        server = BrokerServer(BrokerConfig(port=0))
        await server.stop()
        await server.start()
        await server.start()
        server.stop_soon()
        server.stop_soon()
        await server.stop()
        await server.serve()
        await server.stop()

    asyncio.run(main())
