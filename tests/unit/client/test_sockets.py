"""The socket under the blocking client, and the options of a URL."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret.amqp.uris import parse_url
from leveret.client.deadline import Deadline
from leveret.client.sockets import Transport, connect, tls_context
from leveret.clock import SystemClock
from leveret.errors import ConfigurationError

PATIENCE_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[Transport, socket.socket]]:
    """Make a transport and the other end of its socket."""
    ours, theirs = socket.socketpair()
    transport = Transport(ours)
    yield transport, theirs
    transport.close()
    theirs.close()


def test_what_the_peer_sends_is_waited_for_and_read(pair: tuple[Transport, socket.socket]) -> None:
    """Wait says that there is something; read gives it, then nothing, and at the end of the stream b""."""
    transport, peer = pair
    assert transport.wait(0.0) is False
    assert transport.read() is None
    peer.sendall(b"hello")
    assert transport.wait(PATIENCE_S) is True
    assert transport.read() == b"hello"
    peer.close()
    assert transport.wait(PATIENCE_S) is True
    assert transport.read() == b""


def test_what_the_kernel_does_not_take_is_kept(pair: tuple[Transport, socket.socket]) -> None:
    """Writing never blocks: the rest waits for room, in order, and ``flushed`` says how far it has got."""
    transport, peer = pair
    data = bytes(range(256)) * (32 << 10)
    transport.write(data)
    assert transport.queued == len(data)
    assert transport.flushed < len(data)
    assert transport.wait(0.0) is False, "there is no room yet"
    received = bytearray()
    while len(received) < len(data):
        received += peer.recv(1 << 20)
        if transport.wait(0.0):
            transport.flush()
    assert received == data
    assert transport.flushed == transport.queued


def test_another_thread_can_end_a_wait(pair: tuple[Transport, socket.socket]) -> None:
    """Wake ends a wait that is under way or the next one, once."""
    transport, _ = pair
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(transport.wait(PATIENCE_S)))
    thread.start()
    transport.wake()
    thread.join(PATIENCE_S)
    assert results == [False]
    transport.wake()
    transport.wake()
    assert transport.wait(PATIENCE_S) is False


def test_a_lost_connection_raises(pair: tuple[Transport, socket.socket]) -> None:
    """Writing to a peer that has gone is an error of the operating system."""
    transport, peer = pair
    peer.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        transport.write(b"x")


def test_close_ends_nothing_for_a_copy_of_the_socket() -> None:
    """After a fork both processes have the socket: one may close its copy and the other goes on."""
    ours, theirs = socket.socketpair()
    copy = ours.dup()
    transport = Transport(ours)
    transport.close()
    transport.close()
    copy.sendall(b"still here")
    assert theirs.recv(100) == b"still here"
    for one in (copy, theirs):
        one.close()


def test_connecting_to_nobody_raises_what_the_system_says() -> None:
    """A port on which nobody listens refuses."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        connect(parse_url(f"amqp://127.0.0.1:{port}"), deadline=Deadline(PATIENCE_S, SystemClock()))


def test_every_address_of_a_host_is_tried() -> None:
    """Localhost is ::1 and 127.0.0.1 on most machines; a server on the second is found."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = parse_url(f"amqp://localhost:{listening.getsockname()[1]}")
        connect(url, deadline=Deadline(PATIENCE_S, SystemClock())).close()


def test_a_host_that_can_be_no_name_is_a_setting_to_mend() -> None:
    """A label of more than 63 characters is no broker that is down."""
    with pytest.raises(ConfigurationError, match="is not a host name"):
        connect(parse_url(f"amqp://{'a' * 64}.example"), deadline=Deadline(PATIENCE_S, SystemClock()))


def test_plain_urls_have_no_tls() -> None:
    """Only amqps speaks TLS."""
    assert tls_context(parse_url("amqp://localhost")) is None


def test_tls_verifies_unless_told_not_to() -> None:
    """The server's certificate and name are checked by default; ``verify=false`` turns both off."""
    context = tls_context(parse_url("amqps://localhost"))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    for value in ("false", "0", "verify_none"):
        trusting = tls_context(parse_url(f"amqps://localhost?verify={value}"))
        assert trusting is not None
        assert (trusting.verify_mode, trusting.check_hostname) == (ssl.CERT_NONE, False)


def test_tls_options_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A file that is missing or no certificate, and a value that is neither true nor false."""
    with pytest.raises(ConfigurationError, match=r"TLS cannot use /nowhere/ca\.pem"):
        tls_context(parse_url("amqps://me:secret@localhost?cafile=/nowhere/ca.pem"))
    not_a_certificate = tmp_path / "cert.pem"
    not_a_certificate.write_text("hello")
    with pytest.raises(ConfigurationError, match=r"TLS cannot use .*cert\.pem") as caught:
        tls_context(parse_url(f"amqps://me:secret@localhost?certfile={not_a_certificate}"))
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="verify is 'perhaps'; it takes true or false"):
        tls_context(parse_url("amqps://localhost?verify=perhaps"))
