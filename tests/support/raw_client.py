"""A client that sends exactly what it is told, for what no well-behaved client can do.

Methods are encoded and decoded by pika's codec, so that ours is never its own judge.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from types import TracebackType
from typing import Final, Self, TypeVar

from pika import frame as frames
from pika import spec
from pika.amqp_object import Method

__all__ = ["HEARTBEAT", "PROTOCOL_HEADER", "RawClient", "frame_bytes", "method_bytes"]

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_CAPABILITIES: Final = {
    "authentication_failure_close": True,
    "consumer_cancel_notify": True,
    "basic.nack": True,
    "publisher_confirms": True,
}

M = TypeVar("M", bound=Method)


def frame_bytes(type_: int, channel: int, payload: bytes, *, end: int = spec.FRAME_END) -> bytes:
    """Build a frame as it is on the wire; ``end`` other than 0xCE makes a broken one."""
    return struct.pack(">BHI", type_, channel, len(payload)) + payload + bytes([end])


def method_bytes(channel: int, method: Method) -> bytes:
    """Build the frame of one method."""
    return bytes(frames.Method(channel, method).marshal())


class RawClient:
    """One socket to a broker; every wait ends after ``timeout_s``."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10.0) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = timeout_s
        self._received = b""

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Hang up."""
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket without a word."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._socket.sendall(data)

    def send_method(self, channel: int, method: Method) -> None:
        """Write one method."""
        self.send(method_bytes(channel, method))

    def send_content(self, channel: int, body: bytes, properties: spec.BasicProperties | None = None) -> None:
        """Write a content header and, unless it is empty, the body in one frame."""
        header = frames.Header(channel, len(body), properties or spec.BasicProperties())
        self.send(header.marshal())
        if body:
            self.send(frame_bytes(spec.FRAME_BODY, channel, body))

    def receive(self) -> frames.Frame:
        """Return the next frame, heartbeats included.

        Raises:
            EOFError: the broker closed the connection; the message holds what is left of it.

        """
        while True:
            consumed, frame = frames.decode_frame(self._received)
            if frame is not None:
                self._received = self._received[consumed:]
                return frame
            if not (data := self._read()):
                raise EOFError(f"the broker closed the connection; unread: {self._received!r}")
            self._received += data

    def receive_method(self, kind: type[M], *, channel: int | None = None) -> M:
        """Return the next frame's method, which must be of that kind; heartbeats are passed over."""
        while isinstance(frame := self.receive(), frames.Heartbeat):
            pass
        assert isinstance(frame, frames.Method), f"expected {kind.NAME}, got {frame}"
        assert isinstance(frame.method, kind), f"expected {kind.NAME}, got {frame.method}"
        assert channel is None or frame.channel_number == channel
        return frame.method

    def receive_rest(self) -> bytes:
        """Return what the broker sends until it closes the connection, be it politely or by a reset."""
        with contextlib.suppress(ConnectionResetError):
            while data := self._read():
                self._received += data
        rest, self._received = self._received, b""
        return rest

    def receive_bytes(self, count: int) -> bytes:
        """Return the next bytes as they are."""
        while len(self._received) < count:
            data = self._read()
            assert data, f"the broker closed the connection after {self._received!r}"
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def seconds_until_end(self) -> float:
        """Return how long it takes until the broker closes the connection; what it still sends can be read afterwards."""
        start_s = time.monotonic()
        rest = self.receive_rest()
        self._received = rest
        return time.monotonic() - start_s

    def _read(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except TimeoutError as error:
            raise AssertionError(f"the broker sent nothing for {self._timeout_s:g} s; unread: {self._received!r}") from error

    # ------------------------------------------------------------------------------------------------ handshake

    def start(self) -> spec.Connection.Start:
        """Send the protocol header and return connection.start."""
        self.send(PROTOCOL_HEADER)
        return self.receive_method(spec.Connection.Start)

    def log_in(
        self, response: bytes = b"\x00guest\x00guest", *, mechanism: str = "PLAIN", authentication_failure_close: bool = True
    ) -> None:
        """Start, and send connection.start-ok."""
        self.start()
        capabilities = {**_CAPABILITIES, "authentication_failure_close": authentication_failure_close}
        self.send_method(
            0,
            spec.Connection.StartOk(
                client_properties={"product": "tests", "capabilities": capabilities},
                mechanism=mechanism,
                response=response,
            ),
        )

    def tune(self, *, channel_max: int = 2047, frame_max: int = 131072, heartbeat_s: int = 0) -> spec.Connection.Tune:
        """Log in and answer connection.tune with these limits; return what the broker offered."""
        self.log_in()
        offered = self.receive_method(spec.Connection.Tune)
        self.send_method(0, spec.Connection.TuneOk(channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat_s))
        return offered

    def open(self, vhost: str, *, channel_max: int = 2047, frame_max: int = 131072, heartbeat_s: int = 0) -> Self:
        """Go through the whole handshake."""
        self.tune(channel_max=channel_max, frame_max=frame_max, heartbeat_s=heartbeat_s)
        self.send_method(0, spec.Connection.Open(virtual_host=vhost))
        self.receive_method(spec.Connection.OpenOk)
        return self

    def open_channel(self, number: int) -> None:
        """Open a channel."""
        self.send_method(number, spec.Channel.Open())
        self.receive_method(spec.Channel.OpenOk, channel=number)
