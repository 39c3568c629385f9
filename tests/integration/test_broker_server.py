"""The embedded broker as a process: crashes, shutdown, a failing disk, and clients that behave badly.

What RabbitMQ does as well is in tests/conformance, run on both.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret.amqp.methods import basic, channel, queue
from leveret.broker.storage.sqlite import FILE_NAME
from leveret.errors import ConnectionForced, FrameError, InternalError, LeveretError, NotAllowed, ReplyError
from tests.support.embedded import EmbeddedBroker
from tests.support.peer import Peer
from tests.support.processes import last_lines
from tests.support.waiting import wait_until

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker of this test's own, which it may hurt."""
    started = EmbeddedBroker(tmp_path / "broker")
    started.start()
    yield started
    started.stop()


def rss_bytes(broker: EmbeddedBroker) -> int:
    """Return the memory that a broker's process has resident."""
    for line in Path(f"/proc/{broker.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no VmRSS")


def log_of(broker: EmbeddedBroker) -> str:
    """Return what a broker has said."""
    return (broker.folder / "output.log").read_text()


def ready(broker: EmbeddedBroker, name: str) -> list[tuple[int, bool]]:
    """Take everything out of a queue of numbers: (number, redelivered)."""
    with Peer(broker.port) as peer:
        count = peer.count(name)
        peer.call(basic.Consume(queue=name, no_ack=True), basic.ConsumeOk)
        return [(int(body[:10]), redelivered) for _, _, _, _, redelivered, _, _, body in peer.wait_delivered(count)]


class Publisher(threading.Thread):
    """Publishes persistent numbers as fast as they are confirmed, until the connection ends."""

    def __init__(self, port: int, name: str, start: int, *, window: int = 500, size_bytes: int = 100) -> None:
        super().__init__(daemon=True)
        self.peer = Peer(port)
        self.name_of_queue = name
        self.first = start
        self.sent = 0
        self._window = window
        self._size_bytes = size_bytes
        self.peer.confirm_select()

    def run(self) -> None:
        """Publish until the end."""
        peer = self.peer
        try:
            while not peer.is_closed:
                for _ in range(min(50, self._window - (self.sent - peer.confirmed))):
                    body = b"%010d" % (self.first + self.sent)
                    peer.publish(self.name_of_queue, body.ljust(self._size_bytes, b"."))
                    self.sent += 1
                peer.pump()
        except OSError:
            pass
        finally:
            peer.socket.close()

    def wait_confirmed(self, count: int) -> None:
        """Wait until publishing is well under way."""
        wait_until(lambda: self.peer.confirmed > count, 20, f"{count} messages to be confirmed")

    @property
    def confirmed(self) -> list[int]:
        """The numbers that the broker has confirmed."""
        return list(range(self.first, self.first + self.peer.confirmed))


# ------------------------------------------------------------------------------------------------------ crashes


def test_killed_while_publishing_loses_nothing_confirmed(broker: EmbeddedBroker) -> None:
    """After kill -9 at any moment every confirmed message is there, once, in order, redelivered; and none that nobody sent."""
    with Peer(broker.port) as peer:
        peer.declare("q", durable=True)
    confirmed: list[int] = []
    sent: set[int] = set()
    for round_ in range(1, 6):
        publisher = Publisher(broker.port, "q", len(sent))
        publisher.start()
        publisher.wait_confirmed(200 * round_)
        broker.kill()
        publisher.join(20)
        confirmed += publisher.confirmed
        sent |= set(range(publisher.first, publisher.first + publisher.sent))
        broker.start()
    found = ready(broker, "q")
    numbers = [number for number, _ in found]
    assert set(confirmed) <= set(numbers) <= sent
    assert numbers == sorted(set(numbers))
    assert all(redelivered for _, redelivered in found)


def test_killed_right_after_declare_ok_the_queue_is_there(broker: EmbeddedBroker) -> None:
    """A durable queue, exchange and binding are on disk before their reply is on the wire."""
    for number in range(3):
        with Peer(broker.port) as peer:
            peer.declare(f"q{number}", durable=True)
            broker.kill()
        broker.start()
    with Peer(broker.port) as peer:
        peer.call(queue.Bind(queue="q0", exchange="amq.topic", routing_key="a.*"), queue.BindOk)
        broker.kill()
    broker.start()
    with Peer(broker.port) as peer:
        assert [peer.count(f"q{number}") for number in range(3)] == [0, 0, 0]
        peer.call(queue.Delete(queue="q1"), queue.DeleteOk)
        broker.kill()
    broker.start()
    with Peer(broker.port) as peer:
        peer.count("q2")
        peer.send(queue.Declare(queue="q1", passive=True))
        assert peer.receive(channel.Close)[0].reply_code == 404


def test_a_purge_of_transient_messages_is_answered(broker: EmbeddedBroker) -> None:
    """A change that touches nothing on disk waits for no commit: none would come."""
    with Peer(broker.port, timeout_s=5) as peer:
        peer.declare("q", durable=True)
        peer.publish("q", b"transient", persistent=False)
        assert peer.call(queue.Purge(queue="q"), queue.PurgeOk).message_count == 1


# ----------------------------------------------------------------------------------------------------- shutdown


def test_sigterm_in_the_middle_of_traffic_leaves_a_clean_file(broker: EmbeddedBroker) -> None:
    """Clients get 320, the process exits with 0, the file is whole and clean, and flags are exact."""
    with Peer(broker.port) as peer:
        peer.declare("q", durable=True)
    publisher = Publisher(broker.port, "q", 0)
    publisher.start()
    publisher.wait_confirmed(1000)
    process = broker._process
    assert process is not None
    with Peer(broker.port) as idle:
        process.send_signal(signal.SIGTERM)
        reason = idle.wait_closed()
    assert isinstance(reason, ConnectionForced)
    assert reason.reply_text == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    publisher.join(20)
    assert process.wait(20) == 0
    assert isinstance(publisher.peer.closed_by, ConnectionForced | None)
    connection = sqlite3.connect(broker.folder / "data" / FILE_NAME)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT clean FROM state").fetchall() == [(1,)]
    connection.close()
    broker.stop()
    broker.start()
    found = ready(broker, "q")
    assert set(publisher.confirmed) <= {number for number, _ in found}
    assert not any(redelivered for _, redelivered in found)


def test_a_client_that_does_not_answer_does_not_hold_the_broker(broker: EmbeddedBroker) -> None:
    """A peer that never sends close-ok, and one that never reads, are cut off when the broker stops."""
    silent = Peer(broker.port)
    deaf = Peer(broker.port, receive_buffer_bytes=4096)
    deaf.declare("q")
    for _ in range(64):
        silent.publish("q", bytes(64 * KIB), persistent=False)
    silent.flush()
    deaf.send(basic.Consume(queue="q", no_ack=True))
    deaf.flush()
    process = broker._process
    assert process is not None
    started_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - started_s < 5
    for peer in (silent, deaf):
        peer.socket.close()


def test_a_second_broker_on_the_same_folder_says_so(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A data folder, and a port, belong to one broker; the second one ends with a sentence and not with 0."""
    program = broker_program()
    for options, words in [
        (["--port", "0", "--data", broker.folder / "data"], "is in use by a running broker; stop that one"),
        (["--port", str(broker.port), "--data", tmp_path / "other"], f"port {broker.port} on 127.0.0.1 is in use by another"),
    ]:
        ended = subprocess.run([*program, *map(str, options)], capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode != 0
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
    with Peer(broker.port) as peer:
        peer.declare("still alive", durable=True)


def broker_program() -> list[str]:
    """Return the command that starts a broker."""
    return [str(Path(sys.executable).parent / "leveret"), "broker"]


# ---------------------------------------------------------------------------------------------- a failing disk


def test_a_disk_that_cannot_be_written_ends_the_broker(broker: EmbeddedBroker) -> None:
    """No confirm for what was not written, 541 to the clients, a clear last word, an exit code; all confirmed is kept."""
    with Peer(broker.port) as peer:
        peer.declare("q", durable=True)
    publisher = Publisher(broker.port, "q", 0, window=200, size_bytes=2000)
    publisher.start()
    publisher.wait_confirmed(500)
    process = broker._process
    assert process is not None
    # No file may grow beyond this size from now on: the write-ahead log soon has it (EFBIG, as with a full quota).
    size = (broker.folder / "data" / f"{FILE_NAME}-wal").stat().st_size
    with Peer(broker.port) as waiting:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 300 * KIB, size + 300 * KIB))
        waiting.wait_closed()
    publisher.join(20)
    assert not publisher.is_alive()
    for reason in (publisher.peer.closed_by, waiting.closed_by):
        assert isinstance(reason, InternalError)
        assert reason.reply_text == "INTERNAL_ERROR - the broker cannot write to its disk any more and stops"
    assert publisher.peer.confirmed < publisher.sent
    assert process.wait(20) != 0
    said = log_of(broker)
    assert f"cannot write {broker.folder / 'data' / FILE_NAME}" in said
    assert "stopping: nothing more can be confirmed" in said
    broker.stop()
    broker.start()
    found = [number for number, _ in ready(broker, "q")]
    assert set(publisher.confirmed) <= set(found)
    assert found == sorted(set(found))


def test_a_change_that_is_not_on_disk_is_not_answered(broker: EmbeddedBroker) -> None:
    """A durable declare that cannot be written gets no declare-ok, only the end."""
    with Peer(broker.port) as peer:
        peer.declare("first", durable=True)
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1, 1))
        peer.send(queue.Declare(queue="second", durable=True))
        assert isinstance(peer.wait_closed(), InternalError)
        assert not peer.methods
    broker.stop()
    broker.start()
    with Peer(broker.port) as peer:
        assert peer.count("first") == 0
        peer.send(queue.Declare(queue="second", passive=True))
        assert peer.receive(channel.Close)[0].reply_code == 404


# -------------------------------------------------------------------------------------- clients that behave badly


def test_a_consumer_that_never_reads_costs_little_and_hinders_nobody(broker: EmbeddedBroker) -> None:
    """64 MiB for a consumer without a prefetch limit that does not read: the broker sends what the socket takes."""
    with Peer(broker.port) as publisher, Peer(broker.port, receive_buffer_bytes=4096) as deaf, Peer(broker.port) as other:
        publisher.declare("backlog")
        publisher.confirm_select()
        body = bytes(4 * KIB)
        for number in range(16 * KIB):
            publisher.publish("backlog", body, persistent=False)
            if number % 256 == 255:
                publisher.wait_confirmed(number - 255)
        publisher.wait_confirmed(16 * KIB)
        before = rss_bytes(broker)
        deaf.send(basic.Consume(queue="backlog"))
        deaf.flush()
        other.declare("busy")
        other.confirm_select()
        other.call(basic.Consume(queue="busy", no_ack=True), basic.ConsumeOk)
        for number in range(1, 201):
            other.publish("busy", b"x", persistent=False)
            other.wait_confirmed(number)
            other.wait_delivered(1)
        assert rss_bytes(broker) - before < 8 * MIB
        # Most of the backlog is still there for who does read.
        other.call(basic.Consume(queue="backlog", no_ack=True), basic.ConsumeOk)
        assert len(other.wait_delivered(14 * KIB)) == 14 * KIB


def test_gets_without_reading_are_answered_only_as_far_as_the_client_listens(broker: EmbeddedBroker) -> None:
    """A client that asks for 128 MiB in one write gets it piece by piece; what waits in the broker is bounded."""
    with Peer(broker.port, receive_buffer_bytes=4096) as peer:
        peer.declare("q")
        peer.confirm_select()
        peer.publish("q", bytes(MIB), persistent=False)
        peer.wait_confirmed(1)
        before = rss_bytes(broker)
        count = 128
        for _ in range(count):
            # The same message again and again: its memory counts once.
            peer.send(basic.Get(queue="q"))
            peer.send(basic.Recover(requeue=True))
        peer.flush()
        with Peer(broker.port) as other:
            other.declare("alive", durable=True)
        assert rss_bytes(broker) - before < 40 * MIB
        for _ in range(count):
            _, body = peer.receive(basic.GetOk)
            assert body is not None
            assert len(body) == MIB
            peer.receive(basic.RecoverOk)


def test_returns_and_deliveries_may_cross_a_close(broker: EmbeddedBroker) -> None:
    """What the broker still has for a channel or connection when its client closes it is dropped, not an error."""
    with Peer(broker.port) as peer:
        peer.declare("q")
        peer.call(basic.Consume(queue="q"), basic.ConsumeOk)
        peer.engine.write(peer.publish_bytes("nowhere", b"returned", mandatory=True))
        peer.publish("q", b"delivered", persistent=False)
        peer.call(channel.Close(), channel.CloseOk)
        peer.call(channel.Open(), channel.OpenOk)
        assert peer.count("q") == 1
        peer.engine.write(peer.publish_bytes("nowhere", b"returned", mandatory=True))
        peer.engine.close()
        assert peer.wait_closed() is None
    assert "unexpected error" not in log_of(broker)


def test_a_broken_frame_ends_the_session_at_once(broker: EmbeddedBroker) -> None:
    """What the client held goes to others without waiting for its close-ok; what was on its way to it is dropped."""
    with Peer(broker.port) as broken, Peer(broker.port) as other:
        other.declare("q")
        other.publish("q", b"held", persistent=False)
        other.flush()
        broken.call(basic.Consume(queue="q"), basic.ConsumeOk)
        broken.wait_delivered(1)
        # A return is due when the next frame turns out to be none.
        broken.socket.sendall(broken.publish_bytes("nowhere", b"", mandatory=True) + b"no frame begins like this")
        other.call(basic.Consume(queue="q"), basic.ConsumeOk)
        ((_, _, _, _, redelivered, _, _, body),) = other.wait_delivered(1)
        assert (redelivered, body) == (True, b"held")
        reason = broken.wait_closed()
        assert isinstance(reason, FrameError)
    assert "unexpected error" not in log_of(broker)


def test_an_idle_crowd_is_cheap(broker: EmbeddedBroker) -> None:
    """300 idle connections with a channel each take less than 64 KiB each, and leave nothing behind."""
    with Peer(broker.port) as first:
        first.declare("q")
        before = rss_bytes(broker)
        crowd = [Peer(broker.port) for _ in range(300)]
        assert (rss_bytes(broker) - before) / len(crowd) < 64 * KIB
        for peer in crowd:
            peer.call(basic.Consume(queue="q"), basic.ConsumeOk)
        for number in range(0, len(crowd), 7):
            crowd[number].socket.close()
        for peer in crowd:
            peer.socket.close()
        wait_until(
            lambda: first.call(queue.Declare(queue="q", passive=True), queue.DeclareOk).consumer_count == 0,
            10,
            "the consumers to be gone",
        )


def test_a_crowd_that_comes_and_goes_leaves_no_memory_behind(broker: EmbeddedBroker) -> None:
    """Connections, channels, consumers and exclusive queues are forgotten with their client."""

    def come_and_go(times: int) -> None:
        for _ in range(times):
            with Peer(broker.port) as peer:
                name = peer.call(queue.Declare(exclusive=True), queue.DeclareOk).queue
                peer.call(basic.Consume(queue=name), basic.ConsumeOk)
                peer.publish(name, bytes(10 * KIB), persistent=False)
                peer.wait_delivered(1)

    come_and_go(300)
    before = rss_bytes(broker)
    come_and_go(600)
    assert rss_bytes(broker) - before < 2 * MIB
    assert len(os.listdir(f"/proc/{broker.pid}/fd")) < 50


def test_half_a_handshake_is_no_connection(broker: EmbeddedBroker) -> None:
    """Who says nothing, or stops half way, disturbs nobody."""
    sockets = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(20)]
    for index, each in enumerate(sockets):
        each.sendall(b"AMQP\x00\x00\x09\x01"[: index % 9])
    with Peer(broker.port) as peer:
        peer.declare("q")
    for each in sockets:
        each.close()


def test_refused_logins_are_told(broker: EmbeddedBroker) -> None:
    """Wrong password 403, wrong vhost 530; the log says which user's machine, never the password."""
    with pytest.raises(ReplyError, match="403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"):
        Peer(broker.port, password="secret guess")
    with pytest.raises(NotAllowed, match="530 NOT_ALLOWED - vhost /nope not found"):
        Peer(broker.port, vhost="/nope")
    assert "login refused for 127.0.0.1:" in log_of(broker)
    assert "secret guess" not in log_of(broker)


def test_guest_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """On an address that others can reach, guest does not log in: like a wrong password."""
    address = outside_address()
    if address is None:
        pytest.skip("this machine has no address but its own")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*broker_program(), "--host", address, "--port", "0", "--data", str(tmp_path / "data")], stdout=output, stderr=output
        )
    try:
        port = wait_until(lambda: listening_port(log), 15, "the broker to listen")
        with pytest.raises(LeveretError, match="ACCESS_REFUSED"):
            Peer(port, host=address)
    finally:
        process.terminate()
        assert process.wait(10) == 0, last_lines(log)


def outside_address() -> str | None:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way would be taken
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def listening_port(log: Path) -> int:
    """Find the port in what ``leveret broker`` prints; 0: not yet."""
    for line in log.read_text().splitlines():
        if "amqp://" in line:
            return int(line.split("@", 1)[1].split("/", 1)[0].rsplit(":", 1)[1])
    return 0
