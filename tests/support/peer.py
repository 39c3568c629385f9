"""A plain blocking client on our own engine, which lets a test do what well-behaved clients would not."""

from __future__ import annotations

import socket
import time
from collections import deque
from types import TracebackType
from typing import Self, TypeVar

from leveret.amqp.connection import ACK, CLOSED, DELIVER, METHOD, Connection, DeliverEvent
from leveret.amqp.frames import ack_frame, publish_frames
from leveret.amqp.methods import Method, channel, confirm, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import encode_shortstr
from leveret.errors import LeveretError

__all__ = ["Peer"]

M = TypeVar("M", bound=Method)


class Peer:
    """One connection with channel 1 open; every wait ends after ``timeout_s``. What arrives is kept until asked for."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        username: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        heartbeat_s: int = 0,
        timeout_s: float = 20.0,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(timeout_s)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout_s = timeout_s
        self.engine = Connection.client(username=username, password=password, vhost=vhost, heartbeat_s=heartbeat_s)
        self.methods: deque[tuple[int, Method, bytes | None]] = deque()
        """(channel, method, body) not yet asked for."""
        self.deliveries: deque[DeliverEvent] = deque()
        self.confirmed = 0
        self.nacked: list[int] = []
        self.is_closed = False
        self.closed_by: LeveretError | None = None
        self.engine.start(time.monotonic())
        try:
            while not self.engine.is_open:
                self._expect_open()
                self.pump()
            self.call(channel.Open(), channel.OpenOk)
        except BaseException:
            self.socket.close()
            raise

    def _expect_open(self) -> None:
        if self.is_closed:
            raise self.closed_by or EOFError("the broker closed the connection")

    def __enter__(self) -> Self:
        """Return the peer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Hang up."""
        self.socket.close()

    # ----------------------------------------------------------------------------------------------- the wire

    def flush(self) -> None:
        """Write what is queued."""
        if data := self.engine.data_to_send():
            self.socket.sendall(data)

    def pump(self) -> None:
        """Write what is queued, then read once and sort what came."""
        self.flush()
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.take(data)
        if not self.is_closed:
            self.flush()

    def take(self, data: bytes) -> None:
        """Take bytes that were read, and sort what they mean."""
        for event in self.engine.receive_data(data, time.monotonic()):
            if event[0] == DELIVER:
                self.deliveries.append(event)
            elif event[0] == ACK:
                if event[3] & 2:
                    self.nacked.append(event[2])
                else:
                    self.confirmed = event[2]
            elif event[0] == METHOD:
                self.methods.append((event[1], event[2], event[4]))
            elif event[0] == CLOSED:
                self.is_closed, self.closed_by = True, event[1]

    def wait_closed(self) -> LeveretError | None:
        """Read until the broker has closed the connection; return its reason."""
        while not self.is_closed:
            self.pump()
        return self.closed_by

    # ------------------------------------------------------------------------------------------------ methods

    def send(self, method: Method, number: int = 1) -> None:
        """Queue a method."""
        self.engine.send(number, method)

    def receive(self, kind: type[M]) -> tuple[M, bytes | None]:
        """Return the next method that is not a delivery, which must be of that kind, and its body."""
        while not self.methods:
            assert not self.is_closed, f"expected {kind.NAME}, the connection was closed: {self.closed_by}"
            self.pump()
        _, method, body = self.methods.popleft()
        assert isinstance(method, kind), f"expected {kind.NAME}, got {method}"
        return method, body

    def call(self, method: Method, reply: type[M], number: int = 1) -> M:
        """Send a method and return its reply."""
        self.send(method, number)
        return self.receive(reply)[0]

    def declare(self, name: str, *, durable: bool = False) -> None:
        """Declare a queue."""
        self.call(queue.Declare(queue=name, durable=durable), queue.DeclareOk)

    def count(self, name: str) -> int:
        """Return how many messages are ready in a queue."""
        return self.call(queue.Declare(queue=name, passive=True), queue.DeclareOk).message_count

    def confirm_select(self) -> None:
        """Ask for publisher confirms."""
        self.call(confirm.Select(), confirm.SelectOk)

    # --------------------------------------------------------------------------------------------- publishing

    @staticmethod
    def publish_bytes(name: str, body: bytes, *, persistent: bool = True, mandatory: bool = False) -> bytes:
        """Return the frames of a message to a queue."""
        header = encode_header(len(body), BasicProperties(delivery_mode=2 if persistent else 1))
        return publish_frames(1, b"\0" + encode_shortstr(name, "routing-key"), mandatory, header, body, 131072)

    def publish(self, name: str, body: bytes, *, persistent: bool = True) -> None:
        """Queue a message to a queue."""
        self.engine.write(self.publish_bytes(name, body, persistent=persistent))

    def wait_confirmed(self, count: int) -> None:
        """Read until that many messages are confirmed."""
        while self.confirmed < count:
            assert not self.is_closed, f"waiting for confirm {count}, the connection was closed: {self.closed_by}"
            self.pump()

    def wait_delivered(self, count: int) -> list[DeliverEvent]:
        """Read until that many deliveries are there, and take them."""
        while len(self.deliveries) < count:
            assert not self.is_closed, f"waiting for deliveries, the connection was closed: {self.closed_by}"
            self.pump()
        return [self.deliveries.popleft() for _ in range(count)]

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Queue an acknowledgement."""
        self.engine.write(ack_frame(1, tag, multiple))
