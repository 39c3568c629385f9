"""A TCP proxy that misbehaves when told to: a network that stalls or breaks between a client and its broker."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import replace
from types import TracebackType
from typing import Self

from leveret.amqp.uris import AMQPURL

__all__ = ["Proxy"]


class Proxy:
    """Relays from a port of its own to a broker, from construction to ``close``; a context manager.

    With ``tls`` clients speak TLS to it, and it speaks plainly to the broker.
    """

    def __init__(self, broker: AMQPURL, *, tls: ssl.SSLContext | None = None) -> None:
        self._broker = broker
        self._tls = tls
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        scheme = "amqp" if tls is None else "amqps"
        self.url = replace(broker, scheme=scheme, host="127.0.0.1", port=self._listening.getsockname()[1])
        self.connections = 0
        """How many clients have connected so far."""
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def stall(self) -> None:
        """Pass nothing on in either direction, as a network that swallows every packet: nobody is told."""
        self._flowing.clear()

    def flow(self) -> None:
        """Go on where ``stall`` stopped."""
        self._flowing.set()

    def cut(self) -> None:
        """End every connection."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._flowing.set()

    def close(self) -> None:
        """End everything and stop listening."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(10.0)
        self.cut()
        for thread in self._threads:
            thread.join(10.0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                with contextlib.suppress(OSError):  # no broker, or TLS refused: the client sees the end
                    self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            broker = socket.create_connection((self._broker.host, self._broker.port))
            broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            client.close()
            raise
        self._sockets += (client, broker)
        pair = _Pair(client, broker)
        for source, target in ((client, broker), (broker, client)):
            self._threads.append(threading.Thread(target=self._relay, args=(source, target, pair)))
            self._threads[-1].start()

    def _relay(self, source: socket.socket, target: socket.socket, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                target.sendall(data)
        self._flowing.wait()
        pair.end_of_one()


class _Pair:
    """Two sockets that end together, closed when neither is used any more."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self._sockets = (client, broker)
        self._lock = threading.Lock()
        self._in_use = 2

    def end_of_one(self) -> None:
        """Note that one direction is over, which ends the other."""
        with self._lock:
            self._in_use -= 1
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                if not self._in_use:
                    one.close()
