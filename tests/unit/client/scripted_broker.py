"""A broker that does what a test says: it speaks AMQP 0-9-1 with the package's own engine and answers every call at once.

Each publish goes to ``on_publish``, which may confirm, refuse, return or ignore it, or do worse.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from leveret.amqp.connection import ACK, CLOSED, LOGIN, METHOD, OPENED, PUBLISH, Connection, Event
from leveret.amqp.frames import ack_frame, deliver_frames
from leveret.amqp.methods import Method, basic, channel, confirm, connection, exchange, queue
from leveret.amqp.tables import Table, encode_shortstr
from leveret.amqp.uris import parse_url

__all__ = ["Client", "Published", "ScriptedBroker", "confirm_all"]

_SERVER_PROPERTIES: Final[Table] = {
    "product": "a script",
    "capabilities": {"publisher_confirms": True, "connection.blocked": True},
}

_ANSWERS: Final[dict[type[Method], Callable[[Method], Method]]] = {
    confirm.Select: lambda _: confirm.SelectOk(),
    exchange.Declare: lambda _: exchange.DeclareOk(),
    queue.Bind: lambda _: queue.BindOk(),
    queue.Delete: lambda _: queue.DeleteOk(),
    basic.Qos: lambda _: basic.QosOk(),
    queue.Declare: lambda method: queue.DeclareOk(method.queue if isinstance(method, queue.Declare) else ""),
    basic.Consume: lambda method: basic.ConsumeOk((isinstance(method, basic.Consume) and method.consumer_tag) or "ctag"),
    basic.Cancel: lambda method: basic.CancelOk(method.consumer_tag if isinstance(method, basic.Cancel) else ""),
}


class Published:
    """A message as it came."""

    def __init__(self, number: int, tag: int, route: bytes, header: bytes, body: bytes) -> None:
        self.channel = number
        self.tag = tag
        self.route = route
        self.header = header
        self.body = body


class Client:
    """One connection to the script."""

    def __init__(self, script: ScriptedBroker, connected: socket.socket) -> None:
        self.script = script
        self.calls: list[Method] = []
        self.settled: list[tuple[int, int, int]] = []
        """(channel, delivery tag, kind) of every acknowledgement."""
        self.reading = threading.Event()
        self.reading.set()
        self._socket = connected
        self._engine = Connection.server(dict(_SERVER_PROPERTIES), heartbeat_s=script.heartbeat_s)
        self._lock = threading.RLock()
        self._tags: dict[int, int] = {}

    def run(self) -> None:
        """Talk until the connection is over."""
        self._engine.start(0.0)
        with contextlib.suppress(OSError):
            data = b"\0"
            while data:
                self.reading.wait()
                data = self._socket.recv(1 << 16)
                with self._lock:
                    for event in self._engine.receive_data(data, 0.0):
                        self._handle(event)
                    self.flush()
        self.end()

    @property
    def consumes(self) -> bool:
        """Tell whether it has consumed from a queue, and the answer was sent."""
        with self._lock:
            return any(isinstance(call, basic.Consume) for call in self.calls)

    def send(self, number: int, method: Method, header: bytes | None = None, body: bytes = b"") -> None:
        """Send a method now."""
        with self._lock:
            self._engine.send(number, method, header, body)
            self.flush()

    def write(self, data: bytes) -> None:
        """Send frames now."""
        with self._lock:
            self._engine.write(data)
            self.flush()

    def deliver(self, number: int, delivery_tag: int, header: bytes, body: bytes) -> None:
        """Send a message to the first consumer there was, as from its queue by way of the default exchange."""
        consume = next(call for call in self.calls if isinstance(call, basic.Consume))
        consumer_tag = encode_shortstr(consume.consumer_tag, "consumer tag")
        route = b"\x00" + encode_shortstr(consume.queue, "queue")
        self.write(deliver_frames(number, consumer_tag, delivery_tag, False, route, header, body, 131072))

    def flush(self) -> None:
        """Send what the engine has queued."""
        if data := self._engine.data_to_send():
            self._socket.sendall(data)

    def end(self) -> None:
        """End the connection without a word."""
        self.reading.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _handle(self, event: Event) -> None:
        if event[0] == LOGIN:
            self._engine.accept_login()
        elif event[0] == OPENED:
            self._engine.open_ok()
        elif event[0] == PUBLISH:
            _, number, route, _, header, body = event
            self._tags[number] = self._tags.get(number, 0) + 1
            message = Published(number, self._tags[number], route, header, body)
            self.script.published.append(message)
            self.script.on_publish(self, message)
        elif event[0] == ACK:
            self.settled.append(event[1:])
        elif event[0] == METHOD:
            self._answer(event[1], event[2])
        elif event[0] == CLOSED:
            self.flush()
            self.end()

    def _answer(self, number: int, method: Method) -> None:
        self.calls.append(method)
        if isinstance(method, channel.Close):
            self._engine.send(number, channel.CloseOk())
        elif isinstance(method, channel.Open):
            self._tags[number] = 0
        elif isinstance(method, connection.Close):
            self._engine.send(0, connection.CloseOk())
        elif self.script.on_call(self, number, method) and type(method) in _ANSWERS:
            self._engine.send(number, _ANSWERS[type(method)](method))


def confirm_all(client: Client, message: Published) -> None:
    """Confirm a message."""
    client.write(ack_frame(message.channel, message.tag))


class ScriptedBroker:
    """Listens on a port of its own from construction to ``close``; a context manager."""

    def __init__(self, *, heartbeat_s: int = 0) -> None:
        self.heartbeat_s = heartbeat_s
        self.clients: list[Client] = []
        self.published: list[Published] = []
        self.on_publish: Callable[[Client, Published], None] = confirm_all
        self.on_call: Callable[[Client, int, Method], bool] = lambda client, number, method: True
        """Whether a call gets its usual answer."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = parse_url(f"amqp://127.0.0.1:{self._listening.getsockname()[1]}")
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> ScriptedBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection and stop listening."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(5.0)
        for client in self.clients:
            client.end()
        for thread in self._threads:
            thread.join(5.0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = Client(self, connected)
                self.clients.append(client)
                self._threads.append(threading.Thread(target=client.run))
                self._threads[-1].start()
