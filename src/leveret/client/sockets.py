"""TCP and TLS for the clients: connecting within a deadline, and a socket that is waited for but never blocks in a call.

The transports differ in who waits (threads here, asyncio in ``asynchronous``) and share how a connection is set up: TLS
options from the URL's query, keepalive, no delay.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
from typing import Final, Protocol

from leveret.amqp.uris import AMQPURL
from leveret.client.deadline import Deadline
from leveret.errors import ConfigurationError

__all__ = ["Transport", "connect", "prepare", "tls_context"]

_RECEIVE_SIZE_BYTES: Final = 256 << 10
_SEND_SIZE_BYTES: Final = 256 << 10

# A peer that vanished without a word (power, network) is noticed after 30 + 3 x 10 s, on systems that let us say so.
_KEEPALIVE_IDLE_S: Final = 30
_KEEPALIVE_INTERVAL_S: Final = 10
_KEEPALIVE_PROBES: Final = 3

_TRUE: Final = ("1", "true", "yes", "on", "verify_peer")
_FALSE: Final = ("0", "false", "no", "off", "verify_none")


def tls_context(url: AMQPURL) -> ssl.SSLContext | None:
    """Return how to speak TLS to an ``amqps`` URL; None for ``amqp``.

    The query takes ``cafile`` (instead of the system's authorities), ``certfile`` and ``keyfile`` (who we are) and ``verify``
    (true unless given; false trusts any server: for tests).

    Raises:
        ConfigurationError: a file that cannot be read or used, or a value of ``verify`` that is neither true nor false.

    """
    if url.scheme != "amqps":
        return None
    cafile, certfile, keyfile = (url.query.get(name) for name in ("cafile", "certfile", "keyfile"))
    verify = url.query.get("verify", "true").lower()
    if verify not in _TRUE + _FALSE:
        raise ConfigurationError(f"{url.safe}: verify is {verify!r}; it takes true or false")
    try:
        context = ssl.create_default_context(cafile=cafile)
        if verify in _FALSE:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certfile is not None:
            context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(name for name in (cafile, certfile, keyfile) if name)
        raise ConfigurationError(f"{url.safe}: TLS cannot use {files}: {error}") from error
    return context


class _Connected(Protocol):
    """A socket as far as options go: asyncio hands out its own kind."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def prepare(connected: _Connected) -> None:
    """Set the options both transports want: small writes leave at once, and a vanished peer is noticed."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Transport:
    """A connected socket for several threads: nothing blocks but ``wait``, which another thread can end with ``wake``.

    Its owner calls all but ``wait`` under one lock, for TLS allows no two operations at a time, and lets one thread wait at a
    time. Bytes that the kernel does not take at once stay here: ``flushed`` of all ``queued`` have been handed to it.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._is_tls = isinstance(connected, ssl.SSLSocket)
        self._waker, self._waked = socket.socketpair()
        self._waker.setblocking(False)
        self._waked.setblocking(False)
        self._unsent = bytearray()
        self.queued = 0
        self._descriptor = connected.fileno()
        self._polls_room = False
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(connected, select.POLLIN)
            self._poll.register(self._waked, select.POLLIN)

    @property
    def flushed(self) -> int:
        """Return how many of the ``queued`` bytes the kernel has taken."""
        return self.queued - len(self._unsent)

    def write(self, data: bytes) -> None:
        """Queue bytes and hand to the kernel what it takes now.

        Raises:
            OSError: the connection is gone.

        """
        self.queued += len(data)
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        """Hand to the kernel what it takes now.

        Raises:
            OSError: the connection is gone.

        """
        unsent = self._unsent
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while unsent:
                # TLS wants a write that it could not finish repeated with the same bytes: those at the front do not change.
                del unsent[: self._socket.send(bytes(unsent[:_SEND_SIZE_BYTES]))]

    def read(self) -> bytes | None:
        """Return what has arrived, ``b""`` at the end of the stream, None when there is nothing now.

        Raises:
            OSError: the connection is gone.

        """
        try:
            return self._socket.recv(_RECEIVE_SIZE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def may_have_more(self, data: bytes) -> bool:
        """Tell whether another ``read`` may give something at once, after one that gave ``data``."""
        # TLS keeps decrypted bytes of its own, which no poll sees: it must be read until it has nothing.
        return self._is_tls or len(data) == _RECEIVE_SIZE_BYTES

    def wait(self, timeout_s: float) -> bool:
        """Block until something can be read or, of what is unsent, written (True); or until ``wake`` or the timeout (False)."""
        timeout_s = max(timeout_s, 0.0)
        if self._poll is not None:
            if bool(self._unsent) is not self._polls_room:
                self._polls_room = not self._polls_room
                self._poll.modify(self._descriptor, select.POLLIN | (select.POLLOUT if self._polls_room else 0))
            # Rounded up: a poll of 0 ms would spin through the last millisecond.
            ready = [descriptor for descriptor, _ in self._poll.poll(math.ceil(timeout_s * 1000.0))]
        else:  # Windows
            both = [self._socket, self._waked]
            readable, writable, _ = select.select(both, both[:1] if self._unsent else [], [], timeout_s)
            ready = [one.fileno() for one in readable + writable]
        if len(ready) > (self._descriptor in ready):
            with contextlib.suppress(OSError):  # another thread has closed it
                self._waked.recv(_RECEIVE_SIZE_BYTES)
        return self._descriptor in ready

    def wake(self) -> None:
        """End the ``wait`` of another thread, or the next one."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: nobody waits
            self._waker.send(b"\0")

    def close(self) -> None:
        """Close this process's end, without a word to the peer. A copy of the socket in another process stays as it is."""
        self.wake()
        for one in (self._socket, self._waker, self._waked):
            one.close()


def connect(url: AMQPURL, *, deadline: Deadline) -> Transport:
    """Connect, with TLS where the URL says so.

    Raises:
        OSError: nobody answered, in time or at all, or TLS failed.
        ConfigurationError: as ``tls_context``.

    """
    context = tls_context(url)
    plain = _connect_tcp(url.host, url.port, deadline)
    try:
        prepare(plain)
        if context is None:
            return Transport(plain)
        plain.settimeout(_timeout_s(deadline))
        return Transport(context.wrap_socket(plain, server_hostname=url.host))
    except BaseException:
        plain.close()
        raise


def _connect_tcp(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Try every address of the host, each with its share of the time that is left."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise ConfigurationError(f"{host!r} is not a host name") from error
    for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_timeout_s(deadline) / left)
            plain.connect(address)
        except BaseException as error:
            plain.close()
            if left == 1 or not isinstance(error, OSError):
                raise
        else:
            return plain
    raise AssertionError("getaddrinfo returns an address or raises")


def _timeout_s(deadline: Deadline) -> float:
    """Return what is left of the time; never 0, which would mean not to wait at all."""
    return max(deadline.remaining_s(), 0.001)
