"""A client's and a server's engine talking to each other in memory, with the least of a shell around the server's."""

from __future__ import annotations

from leveret.amqp.connection import CLOSED, LOGIN, METHOD, OPENED, Connection, Event
from leveret.amqp.methods import channel, connection
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.tables import Table
from leveret.errors import LeveretError

__all__ = ["SERVER_PROPERTIES", "Conversation", "closing_error", "header_of", "open_pair"]

SERVER_PROPERTIES: Table = {"product": "RabbitMQ", "capabilities": {"basic.nack": True, "publisher_confirms": True}}


class Conversation:
    """Both ends, what each has been told, and what went over the wire; ``now_s`` only moves when a test moves it."""

    def __init__(self, client: Connection, server: Connection, *, answers: bool = True) -> None:
        self.client = client
        self.server = server
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []
        self.client_sent = bytearray()
        self.server_sent = bytearray()
        self.now_s = 0.0
        self._answers = answers
        client.start(self.now_s)
        server.start(self.now_s)

    def exchange(self) -> None:
        """Carry bytes to and fro until both ends are quiet."""
        while True:
            to_server, to_client = self.client.data_to_send(), self.server.data_to_send()
            if not to_server and not to_client:
                return
            if to_server:
                self.feed_server(to_server)
            if to_client:
                self.feed_client(to_client)

    def feed_server(self, data: bytes) -> list[Event]:
        """Give bytes to the server's end; return what it was told."""
        self.client_sent += data
        told = len(self.server_events)
        for event in self.server.receive_data(data, self.now_s):
            self.server_events.append(event)
            if self._answers:
                self._answer(event)
        return self.server_events[told:]

    def feed_client(self, data: bytes) -> list[Event]:
        """Give bytes to the client's end; return what it was told."""
        self.server_sent += data
        events = list(self.client.receive_data(data, self.now_s))
        self.client_events += events
        return events

    def _answer(self, event: Event) -> None:
        if event[0] == LOGIN:
            self.server.accept_login()
        elif event[0] == OPENED:
            self.server.open_ok()
        elif event[0] == METHOD:
            match event[2]:
                case channel.Close():
                    self.server.send(event[1], channel.CloseOk())
                case connection.Close():
                    self.server.send(0, connection.CloseOk())


def open_pair(
    *, channels: int = 1, heartbeat_s: int = 60, frame_max: int = 131072, channel_max: int = 2047, body_size_max: int = 1 << 20
) -> Conversation:
    """Return an open connection with that many open channels, its events so far forgotten."""
    client = Connection.client(body_size_max=body_size_max)
    server = Connection.server(
        SERVER_PROPERTIES, heartbeat_s=heartbeat_s, frame_max=frame_max, channel_max=channel_max, body_size_max=body_size_max
    )
    talk = Conversation(client, server)
    talk.exchange()
    for number in range(1, channels + 1):
        client.send(number, channel.Open())
    talk.exchange()
    assert client.is_open, talk.client_events
    assert server.is_open, talk.server_events
    for log in (talk.client_events, talk.server_events, talk.client_sent, talk.server_sent):
        log.clear()
    return talk


def closing_error(events: list[Event]) -> LeveretError | None:
    """Return the error of the CLOSED event, which must be the last one."""
    last = events[-1]
    assert last[0] == CLOSED, events
    return last[1]


def header_of(body: bytes, properties: BasicProperties | None = None) -> bytes:
    """Return the payload of the header frame for a body."""
    return encode_header(len(body), properties or BasicProperties(delivery_mode=2))
