"""The engine: both roles talking to each other, with literal bytes where the specification has bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from leveret.amqp.connection import (
    ACK,
    CLOSED,
    DELIVER,
    LOGIN,
    METHOD,
    MULTIPLE_BIT,
    NACK_BIT,
    OPENED,
    PUBLISH,
    REJECT_BIT,
    REQUEUE_BIT,
    ChannelState,
    Connection,
    ConnectionState,
    Event,
)
from leveret.amqp.frames import (
    HEARTBEAT_FRAME,
    ack_frame,
    content_frames,
    deliver_frames,
    frame,
    nack_frame,
    publish_frames,
)
from leveret.amqp.handshake import CLIENT_CAPABILITIES
from leveret.amqp.methods import METHODS, access, basic, channel, connection, exchange, queue
from leveret.amqp.tables import Table
from leveret.errors import (
    AccessRefused,
    BrokerUnavailable,
    ChannelError,
    ConfigurationError,
    ConnectionForced,
    FrameError,
    InternalError,
    LocalProtocolError,
    NotAllowed,
    NotFound,
    RemoteProtocolError,
    ReplyError,
)
from tests.support.conversation import SERVER_PROPERTIES, Conversation, closing_error, header_of, open_pair

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
CLOSE_OK = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
ROUTE = b"\x00\x06celery"
CAPABILITIES: Table = {**CLIENT_CAPABILITIES}


def server_before(method: str) -> Connection:
    """Return a server's end that has done the handshake up to, not including, this method of the client."""
    server = Connection.server(SERVER_PROPERTIES, silent_close_delay_s=3.0)
    server.start(0.0)
    steps = {
        "start-ok": PROTOCOL_HEADER,
        "tune-ok": frame(1, 0, connection.StartOk({}, "PLAIN", b"\0guest\0guest", "en_US").encode()),
        "open": frame(1, 0, connection.TuneOk(2047, 131072, 60).encode()),
    }
    for step, data in steps.items():
        for event in server.receive_data(data, 0.0):
            if event[0] == LOGIN:
                server.accept_login()
        if step == method:
            break
    server.data_to_send()
    return server


def sent_close(end: Connection) -> connection.Close:
    """Return the connection.close that an end has just queued, as its only frame."""
    data = end.data_to_send()
    assert data[:7] == struct.pack(">BHI", 1, 0, len(data) - 8), data
    assert data[7:11] == b"\x00\x0a\x00\x32", data
    return connection.Close.decode(data[:-1], 11)


# -------------------------------------------------------------------------------------------------- the handshake


def test_a_handshake_byte_by_byte() -> None:
    """AMQP 0-9-1, 1.4: every frame of a connection from the first byte to the last, at both ends."""
    client = Connection.client(client_properties={"product": "Leveret"}, vhost="v", heartbeat_s=30)
    server = Connection.server({"product": "RabbitMQ"}, ["PLAIN"])
    talk = Conversation(client, server)
    talk.exchange()
    client.send(1, channel.Open())
    talk.exchange()
    client.close()
    talk.exchange()

    capabilities = b"".join(bytes((len(name),)) + name.encode() + b"t\x01" for name in CLIENT_CAPABILITIES)
    client_properties = (
        b"\x07productS\x00\x00\x00\x07Leveret\x0ccapabilitiesF" + struct.pack(">I", len(capabilities)) + capabilities
    )
    start_ok = (
        b"\x00\x0a\x00\x0b"
        + struct.pack(">I", len(client_properties))
        + client_properties
        + b"\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US"
    )
    assert bytes(talk.client_sent) == (
        PROTOCOL_HEADER
        + frame(1, 0, start_ok)
        + b"\x01\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x1f\x07\xff\x00\x02\x00\x00\x00\x1e\xce"  # tune-ok
        + b"\x01\x00\x00\x00\x00\x00\x08\x00\x0a\x00\x28\x01v\x00\x00\xce"  # open
        + b"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x0a\x00\xce"  # channel.open
        + b"\x01\x00\x00\x00\x00\x00\x12\x00\x0a\x00\x32\x00\xc8\x07Goodbye\x00\x00\x00\x00\xce"  # close
    )
    assert bytes(talk.server_sent) == (
        b"\x01\x00\x00\x00\x00\x00\x31\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x15\x07productS\x00\x00\x00\x08RabbitMQ"
        b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US\xce"  # start
        b"\x01\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c\xce"  # tune
        b"\x01\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x29\x00\xce"  # open-ok
        b"\x01\x00\x01\x00\x00\x00\x08\x00\x14\x00\x0b\x00\x00\x00\x00\xce" + CLOSE_OK  # channel.open-ok
    )
    assert talk.server_events == [
        (LOGIN, "PLAIN", b"\0guest\0guest", {"product": "Leveret", "capabilities": CAPABILITIES}),
        (OPENED, "v"),
        (METHOD, 1, channel.Open(), None, None),
        (METHOD, 0, connection.Close(200, "Goodbye", 0, 0), None, None),
        (CLOSED, None),
    ]
    assert talk.client_events == [(OPENED, {"product": "RabbitMQ"}), (METHOD, 1, channel.OpenOk(), None, None), (CLOSED, None)]


def test_both_ends_know_what_was_agreed() -> None:
    """Limits, heartbeat and the peer's properties are attributes."""
    client = Connection.client(heartbeat_s=20, channel_max=7, frame_max=8192)
    talk = Conversation(client, Connection.server(SERVER_PROPERTIES))
    talk.exchange()
    for end in (talk.client, talk.server):
        assert (end.channel_max, end.frame_max, end.heartbeat_s, end.is_open) == (7, 8192, 20, True)
    assert talk.client.peer_properties == SERVER_PROPERTIES
    assert talk.client.peer_can("basic.nack")
    assert not talk.client.peer_can("consumer_priorities")
    assert talk.server.peer_can("consumer_cancel_notify")


def test_the_header_of_0_9_is_taken() -> None:
    """RabbitMQ takes AMQP 1 1 0 9 as well, in every version."""
    server = Connection.server(SERVER_PROPERTIES)
    list(server.receive_data(b"AMQP\x01\x01\x00\x09", 0.0))
    assert server.data_to_send().startswith(b"\x01\x00\x00")


@pytest.mark.parametrize(
    "data",
    [b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
    ids=["amqp 1.0 with sasl", "amqp 1.0", "http", "tls"],
)
def test_another_protocol_is_answered_with_ours_and_closed(data: bytes) -> None:
    """AMQP 0-9-1, 4.2.2: the server writes the header it would take."""
    server = Connection.server(SERVER_PROPERTIES)
    events = list(server.receive_data(data, 0.0))
    assert server.data_to_send() == PROTOCOL_HEADER
    assert isinstance(error := closing_error(events), RemoteProtocolError)
    assert repr(data[:8]) in str(error)
    assert list(server.receive_data(b"more", 0.0)) == []


@pytest.mark.parametrize("data", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_a_client_knows_when_its_peer_is_no_broker(data: bytes) -> None:
    """The first byte of a broker is that of a method frame."""
    client = Connection.client(peer="example:5672")
    client.start(0.0)
    error = closing_error(list(client.receive_data(data, 0.0)))
    assert isinstance(error, RemoteProtocolError)
    assert str(error).startswith("example:5672 does not speak AMQP 0-9-1: it answered ")


def test_a_refused_login_is_told_to_a_client_that_understands_it() -> None:
    """RabbitMQ, authentication_failure_close: 403 with class and method 0, at once."""
    talk = Conversation(Connection.client(), Connection.server(SERVER_PROPERTIES), answers=False)
    talk.exchange()
    assert talk.server_events[-1][0] == LOGIN
    talk.server.refuse_login(AccessRefused("Login was refused using authentication mechanism PLAIN."))
    talk.exchange()
    for error in (closing_error(talk.client_events), closing_error(talk.server_events)):
        assert isinstance(error, AccessRefused)
        assert error.reply_text == "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        assert (error.class_id, error.method_id) == (0, 0)


def test_a_refused_login_is_silent_for_a_client_that_does_not() -> None:
    """Without the capability nothing is sent and the end comes after a delay, whatever the client sends meanwhile."""
    server = server_before("start-ok")
    start_ok = connection.StartOk({}, "PLAIN", b"\0guest\0wrong", "en_US")
    assert [event[0] for event in server.receive_data(frame(1, 0, start_ok.encode()), 5.0)] == [LOGIN]
    server.refuse_login(AccessRefused("no"))
    assert server.next_deadline_s() == 5.0
    assert server.handle_deadline(5.0) == []
    assert server.next_deadline_s() == 8.0
    assert list(server.receive_data(frame(1, 0, connection.TuneOk(1, 4096, 0).encode()) + b"\xff" * 100, 6.0)) == []
    assert server.data_to_send() == b""
    assert server.handle_deadline(7.9) == []
    assert isinstance(closing_error(server.handle_deadline(8.0)), AccessRefused)
    assert server.state is ConnectionState.CLOSED
    assert server.next_deadline_s() is None


def test_an_unknown_mechanism_is_refused_silently() -> None:
    """The shell does not hear of a mechanism that was not offered."""
    server = server_before("start-ok")
    assert list(server.receive_data(frame(1, 0, connection.StartOk({}, "ANONYMOUS", b"", "en_US").encode()), 0.0)) == []
    assert server.handle_deadline(0.0) == []
    assert "ANONYMOUS" in str(closing_error(server.handle_deadline(3.0)))
    assert server.data_to_send() == b""


def test_limits_that_were_not_offered_are_refused_silently() -> None:
    """AMQP 0-9-1, 1.4.2.6: the server must close without a negotiated close."""
    server = server_before("tune-ok")
    assert list(server.receive_data(frame(1, 0, connection.TuneOk(2048, 131072, 60).encode()), 0.0)) == []
    server.handle_deadline(0.0)
    error = closing_error(server.handle_deadline(3.0))
    assert str(error) == "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"
    assert server.data_to_send() == b""


def test_an_unknown_vhost_is_530() -> None:
    """The shell's answer to OPENED may be an error: connection.close, and the client raises the same."""
    talk = Conversation(Connection.client(vhost="nope"), Connection.server(SERVER_PROPERTIES), answers=False)
    talk.exchange()
    talk.server.accept_login()
    talk.exchange()
    assert talk.server_events[-1] == (OPENED, "nope")
    talk.server.fail(NotAllowed("vhost nope not found", class_id=10, method_id=40))
    talk.exchange()
    for error in (closing_error(talk.client_events), closing_error(talk.server_events)):
        assert isinstance(error, NotAllowed)
        assert str(error) == "530 NOT_ALLOWED - vhost nope not found"
        assert (error.class_id, error.method_id) == (10, 40)


def test_a_login_answered_after_the_client_left_is_ignored() -> None:
    """The shell may ask somebody else for passwords, and that takes time."""
    for answer in (Connection.accept_login, Connection.open_ok, lambda end: end.refuse_login(AccessRefused("no"))):
        talk = Conversation(Connection.client(), Connection.server(SERVER_PROPERTIES), answers=False)
        talk.exchange()
        talk.feed_server(b"")
        assert talk.server_events[-1][0] == CLOSED
        answer(talk.server)
        assert talk.server.data_to_send() == b""
        assert talk.server.state is ConnectionState.CLOSED


def test_a_frame_before_tune_ok_holds_4096_bytes() -> None:
    """AMQP 0-9-1, 4.2.3; start-ok with generous client properties fits."""
    generous = connection.StartOk({"information": "x" * 3900}, "PLAIN", b"\0guest\0guest", "en_US").encode()
    assert [event[0] for event in server_before("start-ok").receive_data(frame(1, 0, generous), 0.0)] == [LOGIN]
    server = server_before("start-ok")
    assert list(server.receive_data(b"\x01\x00\x00\x00\x00\x10\x01\x00\x0a\x00\x0b", 0.0)) == []
    assert sent_close(server).reply_text == "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4097,4088}"


def test_a_malformed_start_ok_does_not_show_the_password() -> None:
    """Other texts quote what could not be decoded."""
    server = server_before("start-ok")
    start_ok = connection.StartOk({}, "PLAIN", b"\0guest\0hunter2", "en_US").encode()
    list(server.receive_data(frame(1, 0, start_ok + b"!"), 0.0))
    assert sent_close(server) == connection.Close(501, "FRAME_ERROR - cannot decode connection.start-ok", 10, 11)
    assert "104,117" not in str(closing_error(list(server.receive_data(CLOSE_OK, 0.0))))


@pytest.mark.parametrize(
    ("before", "method", "state"),
    [
        ("start-ok", connection.TuneOk(1, 4096, 0), "starting"),
        ("start-ok", connection.Open("/"), "starting"),
        ("tune-ok", connection.Open("/"), "tuning"),
        ("open", connection.TuneOk(1, 4096, 0), "opening"),
    ],
)
def test_a_method_at_the_wrong_step_is_504(before: str, method: connection.Open | connection.TuneOk, state: str) -> None:
    """The text names the state in RabbitMQ's words."""
    server = server_before(before)
    list(server.receive_data(frame(1, 0, method.encode()), 0.0))
    text = f"CHANNEL_ERROR - unexpected method in connection state {state}"
    assert sent_close(server) == connection.Close(504, text, *method.INDEX)


def test_a_channels_frame_before_the_connection_is_open_is_505() -> None:
    """Nothing but channel 0 exists during the handshake."""
    server = server_before("open")
    list(server.receive_data(frame(1, 1, b"\x00\x14\x00\x0a\x00"), 0.0))
    assert sent_close(server).reply_text == "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>"


@pytest.mark.parametrize("step", ["protocol header", "start-ok", "tune-ok", "open"])
def test_a_handshake_must_end_in_time(step: str) -> None:
    """The limit counts from ``start`` to open-ok, whatever arrives in between."""
    server = Connection.server(SERVER_PROPERTIES) if step == "protocol header" else server_before(step)
    server.start(0.0)
    assert server.next_deadline_s() == 10.0
    assert server.handle_deadline(9.9) == []
    assert "did not open the connection within 10 s" in str(closing_error(server.handle_deadline(10.0)))


def test_a_client_waits_no_longer_than_its_limit() -> None:
    """A broker that says nothing is unavailable."""
    client = Connection.client(handshake_timeout_s=4.0, peer="example:5672")
    client.start(100.0)
    assert client.next_deadline_s() == 104.0
    error = closing_error(client.handle_deadline(104.0))
    assert isinstance(error, BrokerUnavailable)
    assert str(error) == "example:5672 did not open the connection within 4 s: it was waiting"


def test_no_limit_is_left_once_the_connection_is_open() -> None:
    """Without heartbeats an open connection waits for ever."""
    talk = Conversation(Connection.client(heartbeat_s=0), Connection.server(SERVER_PROPERTIES))
    talk.exchange()
    for end in (talk.client, talk.server):
        assert end.next_deadline_s() is None
        assert end.handle_deadline(1e9) == []


def test_a_silent_refusal_reads_like_a_wrong_password() -> None:
    """RabbitMQ refuses some logins by closing the socket: the client says what it was doing."""
    talk = Conversation(Connection.client(peer="example:5672"), Connection.server(SERVER_PROPERTIES), answers=False)
    talk.exchange()
    error = closing_error(talk.feed_client(b""))
    assert isinstance(error, BrokerUnavailable)
    assert str(error) == "example:5672 closed the connection during login: wrong user name or password?"


def test_a_login_that_cannot_be_sent_is_the_callers_error() -> None:
    """An unknown mechanism, or a zero byte in a password, is found before anything is sent."""
    with pytest.raises(ConfigurationError):
        Connection.client(mechanism="CRAM-MD5")
    with pytest.raises(ConfigurationError):
        Connection.client(password="\0")


def test_a_port_probe_is_no_error() -> None:
    """A peer that connects and leaves without a byte is a health check."""
    server = Connection.server(SERVER_PROPERTIES)
    server.start(0.0)
    assert closing_error(list(server.receive_data(b"", 1.0))) is None


# ------------------------------------------------------------------------------------------------------- messages


def test_a_publish_arrives_as_raw_bytes() -> None:
    """The route is both short strings as on the wire; header and body are the frames' payloads."""
    talk = open_pair()
    header = header_of(b"hello")
    talk.client.send(1, basic.Publish(exchange="x", routing_key="a.b", mandatory=True), header, b"hello")
    talk.client.send(1, basic.Publish(exchange="", routing_key="celery", immediate=True), header_of(b""), b"")
    talk.exchange()
    assert talk.server_events == [
        (PUBLISH, 1, b"\x01x\x03a.b", 1, header, b"hello"),
        (PUBLISH, 1, ROUTE, 2, header_of(b""), b""),
    ]


def test_a_delivery_arrives_as_raw_bytes() -> None:
    """Consumer tag and delivery tag are read, the rest is as on the wire; the second delivery takes the short path."""
    talk = open_pair()
    header = header_of(b"hello")
    for tag in (1, 2):
        talk.server.send(1, basic.Deliver("ctag", tag, tag == 2, "", "celery"), header, b"hello")
    talk.server.send(1, basic.Deliver("ctag", 3, False, "", "celery"), header_of(b""), b"")
    talk.exchange()
    assert talk.client_events == [
        (DELIVER, 1, "ctag", 1, False, ROUTE, header, b"hello"),
        (DELIVER, 1, "ctag", 2, True, ROUTE, header, b"hello"),
        (DELIVER, 1, "ctag", 3, False, ROUTE, header_of(b""), b""),
    ]


def test_return_and_get_ok_carry_their_content() -> None:
    """They are rare: METHOD events, with header and body."""
    talk = open_pair()
    header = header_of(b"back")
    returned = basic.Return(312, "NO_ROUTE", "", "celery")
    got = basic.GetOk(1, False, "", "celery", 0)
    talk.server.send(1, returned, header, b"back")
    talk.server.send(1, got, header_of(b""), b"")
    talk.server.send(1, basic.GetEmpty())
    talk.exchange()
    assert talk.client_events == [
        (METHOD, 1, returned, header, b"back"),
        (METHOD, 1, got, header_of(b""), b""),
        (METHOD, 1, basic.GetEmpty(), None, None),
    ]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (basic.Ack(7, False), 0),
        (basic.Ack(7, True), MULTIPLE_BIT),
        (basic.Nack(7, False, False), NACK_BIT),
        (basic.Nack(7, True, False), NACK_BIT | MULTIPLE_BIT),
        (basic.Nack(7, False, True), NACK_BIT | REQUEUE_BIT),
        (basic.Nack(7, True, True), NACK_BIT | MULTIPLE_BIT | REQUEUE_BIT),
        (basic.Reject(7, False), NACK_BIT | REJECT_BIT),
        (basic.Reject(7, True), NACK_BIT | REJECT_BIT | REQUEUE_BIT),
    ],
)
def test_settlements_are_one_event(method: basic.Ack | basic.Nack | basic.Reject, kind: int) -> None:
    """ack, nack and reject from the client; ack and nack as confirms from the server."""
    talk = open_pair()
    talk.client.send(1, method)
    talk.exchange()
    assert talk.server_events == [(ACK, 1, 7, kind)]
    if not isinstance(method, basic.Reject):
        talk.server.send(1, method)
        talk.exchange()
        assert talk.client_events == [(ACK, 1, 7, kind)]


def test_a_large_body_comes_in_several_frames() -> None:
    """The frames are split at the agreed size and joined again; messages of two channels may be interleaved."""
    talk = open_pair(channels=2, frame_max=4096)
    body = bytes(range(256)) * 64
    first = publish_frames(1, ROUTE, 0, header_of(body), body, 4096)
    second = publish_frames(2, ROUTE, 0, header_of(body), body, 4096)
    border = len(PUBLISH_FRAME) + len(frame(2, 1, header_of(body))) + 4096
    assert talk.feed_server(first[:border] + second[:border]) == []
    assert talk.feed_server(second[border:]) == [(PUBLISH, 2, ROUTE, 0, header_of(body), body)]
    assert talk.feed_server(first[border:]) == [(PUBLISH, 1, ROUTE, 0, header_of(body), body)]


def test_a_body_in_many_small_frames_is_joined() -> None:
    """A sender may split as it likes; empty body frames are legal and count for nothing."""
    talk = open_pair()
    data = frame(1, 1, basic.Publish("", "celery").encode()) + frame(2, 1, header_of(b"hello"))
    for part in (b"", b"h", b"", b"el", b"lo"):
        data += frame(3, 1, part)
    assert talk.feed_server(data) == [(PUBLISH, 1, ROUTE, 0, header_of(b"hello"), b"hello")]


def test_frames_in_use_are_written_unchecked_and_in_order() -> None:
    """``write`` and ``send`` share one queue; ``data_to_send`` empties it."""
    talk = open_pair()
    talk.server.write(b"one")
    talk.server.send(1, channel.Flow(False))
    talk.server.write(b"two")
    assert talk.server.data_to_send() == b"one" + frame(1, 1, b"\x00\x14\x00\x14\x00") + b"two"
    assert talk.server.data_to_send() == b""


@pytest.mark.parametrize(
    ("method", "header", "text"),
    [
        (basic.Publish("", "q"), None, "basic.publish needs content"),
        (queue.Declare("q"), b"header", "queue.declare has no content"),
    ],
)
def test_content_comes_with_methods_that_have_it(method: basic.Publish | queue.Declare, header: bytes | None, text: str) -> None:
    """Our caller's mistake is an error here, not at the peer."""
    talk = open_pair()
    with pytest.raises(LocalProtocolError, match=text):
        talk.client.send(1, method, header)
    assert talk.client.data_to_send() == b""


def test_a_method_larger_than_a_frame_is_refused_here() -> None:
    """A method cannot be split."""
    talk = open_pair(frame_max=4096)
    with pytest.raises(LocalProtocolError, match=r"queue.declare takes \d+ bytes; this connection's frames hold 4088"):
        talk.client.send(1, queue.Declare("q", arguments={"x": "y" * 4096}))


# ------------------------------------------------------------------------------------------------------- channels


def test_a_channel_opens_works_and_closes() -> None:
    """Open is answered by the engine, close by the shell; both are told to it."""
    talk = open_pair(channels=0)
    talk.client.send(9, channel.Open())
    talk.exchange()
    assert list(talk.client.channels) == list(talk.server.channels) == [9]
    talk.client.send(9, queue.Purge("q"))
    talk.client.send(9, channel.Close(200, "", 0, 0))
    talk.exchange()
    assert [event[2] for event in talk.server_events if event[0] == METHOD] == [
        channel.Open(),
        queue.Purge("q"),
        channel.Close(200, "", 0, 0),
    ]
    assert talk.client_events[-1] == (METHOD, 9, channel.CloseOk(), None, None)
    assert not talk.client.channels
    assert not talk.server.channels


def test_channels_are_counted_not_numbered() -> None:
    """RabbitMQ: channel 500 opens under a channel_max of 2, a third channel does not."""
    talk = open_pair(channels=0, channel_max=2)
    for number in (500, 2):
        talk.feed_server(frame(1, number, channel.Open().encode()))
    assert talk.server.is_open
    talk.server.data_to_send()
    talk.feed_server(frame(1, 3, channel.Open().encode()))
    text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
    assert sent_close(talk.server) == connection.Close(530, text, 0, 0)


@pytest.mark.parametrize("number", [3, 70000, -1])
def test_a_client_keeps_to_the_numbers_agreed(number: int) -> None:
    """AMQP 0-9-1, 1.4.2.5: channel_max is the highest number, too."""
    talk = open_pair(channels=0, channel_max=2)
    with pytest.raises(LocalProtocolError, match="between 1 and 2"):
        talk.client.send(number, channel.Open())


def test_a_failed_channel_ignores_everything_until_close_ok() -> None:
    """A soft error closes the channel and nothing else; what was on its way is dropped, half a message too."""
    talk = open_pair(channels=2)
    publish = publish_frames(1, ROUTE, 0, header_of(b"x"), b"x", 131072)
    talk.feed_server(publish[:30])
    talk.server.fail(NotFound("no exchange 'x' in vhost '/'", class_id=60, method_id=40), 1)
    assert talk.server.data_to_send() == frame(
        1, 1, b"\x00\x14\x00\x28\x01\x94\x28NOT_FOUND - no exchange 'x' in vhost '/'\x00\x3c\x00\x28"
    )
    nonsense = frame(3, 1, b"body first") + frame(1, 1, b"\x00\x3c\x03\xe7") + frame(1, 1, channel.Open().encode())
    assert talk.feed_server(publish[30:] + publish + ack_frame(1, 1) + nonsense) == []
    assert talk.feed_server(publish_frames(2, ROUTE, 0, header_of(b"y"), b"y", 131072)) != []
    assert talk.server.channel_state(1) is ChannelState.CLOSE_SENT_BY_SERVER
    assert talk.server.data_to_send() == b""
    assert talk.feed_server(frame(1, 1, channel.CloseOk().encode()) + frame(1, 1, channel.Open().encode()) + publish) == [
        (METHOD, 1, channel.Open(), None, None),
        (PUBLISH, 1, ROUTE, 0, header_of(b"x"), b"x"),
    ]


def test_the_client_answers_and_tells_a_channel_closed_by_the_server() -> None:
    """The number can be used again at once."""
    talk = open_pair()
    talk.server.fail(NotFound("no queue 'q' in vhost '/'", class_id=50, method_id=10), 1)
    talk.exchange()
    close = channel.Close(404, "NOT_FOUND - no queue 'q' in vhost '/'", 50, 10)
    assert talk.client_events == [(METHOD, 1, close, None, None)]
    assert talk.server_events == []
    talk.client.send(1, channel.Open())
    talk.exchange()
    assert talk.client_events[-1] == (METHOD, 1, channel.OpenOk(), None, None)


def test_crossing_closes_of_a_channel_end_well() -> None:
    """Each end answers the other's close and hears the answer to its own."""
    talk = open_pair()
    talk.client.send(1, channel.Close(200, "", 0, 0))
    talk.server.fail(NotFound("gone"), 1)
    talk.exchange()
    assert talk.server_events == []
    assert talk.client_events == [(METHOD, 1, channel.CloseOk(), None, None)]
    assert not talk.client.channels
    assert not talk.server.channels
    assert bytes(talk.client_sent) == frame(1, 1, channel.Close(200, "", 0, 0).encode()) + frame(1, 1, b"\x00\x14\x00\x29")


def test_failing_a_channel_twice_or_too_late_does_nothing() -> None:
    """The second error of a pipeline of commands, or one after the client's own close, has nobody to tell."""
    talk = open_pair()
    talk.server.fail(NotFound("first"), 1)
    assert talk.server.data_to_send() != b""
    talk.server.fail(NotFound("second"), 1)
    talk.server.fail(NotFound("third"), 77)
    assert talk.server.data_to_send() == b""


def test_a_soft_error_on_channel_0_closes_the_connection() -> None:
    """RabbitMQ: there is no channel to close."""
    talk = open_pair()
    talk.server.fail(AccessRefused("no"))
    talk.exchange()
    assert isinstance(closing_error(talk.client_events), AccessRefused)


def test_a_hard_error_of_a_channel_closes_the_connection() -> None:
    """AMQP 0-9-1, 1.2: hard errors close the connection, wherever they arise."""
    talk = open_pair()
    talk.server.fail(InternalError("oops", class_id=60, method_id=40), 1)
    assert not talk.server.is_open
    assert not talk.server.channels
    talk.exchange()
    assert isinstance(closing_error(talk.client_events), InternalError)
    assert isinstance(closing_error(talk.server_events), InternalError)


def test_what_the_caller_does_in_an_event_counts_for_the_next_frame() -> None:
    """Three publishes in one buffer: the first one's error hides the rest, also on the short path."""
    wishes: list[Callable[[Connection], None]] = [
        lambda end: end.fail(NotFound("no exchange"), 1),
        lambda end: end.fail(InternalError("oops")),
        Connection.close,
    ]
    for wish in wishes:
        talk = open_pair(channels=2)
        publish = publish_frames(1, ROUTE, 0, header_of(b"x"), b"x", 131072)
        told = 0
        for event in talk.server.receive_data(publish * 3, 0.0):
            assert event[0] == PUBLISH
            told += 1
            wish(talk.server)
        assert told == 1


# -------------------------------------------------------------------------------------------- what peers do wrong

BODY_FIRST = "UNEXPECTED_FRAME - expected method frame, got non method frame instead"
NO_HEADER = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"
NO_BODY = "UNEXPECTED_FRAME - expected content body, got non content body frame instead"
PUBLISH_FRAME = frame(1, 1, basic.Publish("", "celery").encode())


def raw_header(class_id: int = 60, weight: int = 0, size: int = 5) -> bytes:
    """Return a header frame with these fields and no properties."""
    return frame(2, 1, struct.pack(">HHQH", class_id, weight, size, 0))


@pytest.mark.parametrize(
    ("data", "code", "text", "index"),
    [
        pytest.param(
            b"\x03\x00\x01\x00\x00\x13\x88" + bytes(5000) + b"\xce",
            501,
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,5000,4088}",
            (0, 0),
            id="frame too large",
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c\x00\x0a" + bytes(7))[:-1] + b"\x00",
            501,
            "FRAME_ERROR - type 1, all octets = <<>>: {invalid_frame_end_marker,0}",
            (0, 0),
            id="bad frame end",
        ),
        pytest.param(
            frame(9, 1, b"abc"), 501, 'FRAME_ERROR - type 9, all octets = <<"abc">>: unknown_frame', (0, 0), id="unknown type"
        ),
        pytest.param(
            frame(9, 0, b"abc"), 501, 'FRAME_ERROR - type 9, all octets = <<"abc">>: unknown_frame', (0, 0), id="the same on 0"
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c"), 501, "FRAME_ERROR - type 1, all octets = <<0,60>>: unknown_frame", (0, 0), id="no method id"
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c\x03\xe7"),
            540,
            "NOT_IMPLEMENTED - unknown method (60,999)",
            (60, 999),
            id="unknown method",
        ),
        pytest.param(
            frame(1, 0, b"\x00\x0a\x03\xe7"),
            540,
            "NOT_IMPLEMENTED - unknown method (10,999)",
            (10, 999),
            id="unknown method on 0",
        ),
        pytest.param(
            frame(1, 1, b"\x00\x32\x00\x0a\x00"), 501, "FRAME_ERROR - cannot decode <<0>>", (50, 10), id="truncated arguments"
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c\x00\x28\x00"), 501, "FRAME_ERROR - cannot decode <<0>>", (60, 40), id="truncated publish"
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c\x00\x28\x00\x00\x05abc\x00"),
            501,
            "FRAME_ERROR - cannot decode <<0,0,5,97,98,99,0>>",
            (60, 40),
            id="overlong exchange",
        ),
        pytest.param(
            frame(1, 1, b"\x00\x3c\x00\x50\x00"), 501, "FRAME_ERROR - cannot decode <<0>>", (60, 80), id="truncated ack"
        ),
        pytest.param(
            frame(1, 1, queue.Declare("q", arguments={"a": None}).encode()[:-1] + b"Z"),
            502,
            "SYNTAX_ERROR - unknown field table tag 'Z' (90)",
            (50, 10),
            id="unknown table tag",
        ),
        pytest.param(
            frame(1, 1, b"\x00\x32\x00\x1e\x00\x00\x01\xff\x00"),
            501,
            "FRAME_ERROR - Malformed UTF-8 in shortstr",
            (50, 30),
            id="malformed UTF-8",
        ),
        pytest.param(frame(3, 1, b"hello"), 505, BODY_FIRST, (0, 0), id="body before method"),
        pytest.param(raw_header(), 505, BODY_FIRST, (0, 0), id="header before method"),
        pytest.param(PUBLISH_FRAME + frame(3, 1, b"hello"), 505, NO_HEADER, (60, 40), id="body before header"),
        pytest.param(PUBLISH_FRAME + PUBLISH_FRAME, 505, NO_HEADER, (60, 40), id="method before header"),
        pytest.param(PUBLISH_FRAME + ack_frame(1, 1), 505, NO_HEADER, (60, 40), id="ack before header"),
        pytest.param(PUBLISH_FRAME + raw_header(weight=1), 505, NO_HEADER, (60, 40), id="weight"),
        pytest.param(PUBLISH_FRAME + raw_header() + raw_header(), 505, NO_BODY, (60, 40), id="header before body"),
        pytest.param(PUBLISH_FRAME + raw_header() + PUBLISH_FRAME, 505, NO_BODY, (60, 40), id="method before body"),
        pytest.param(
            PUBLISH_FRAME + raw_header(class_id=50),
            505,
            "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
            (60, 40),
            id="class of header",
        ),
        pytest.param(
            PUBLISH_FRAME + frame(2, 1, b"\x00\x3c\x00\x00"),
            501,
            "FRAME_ERROR - type 2, all octets = <<0,60,0,0>>: unknown_frame",
            (0, 0),
            id="truncated header",
        ),
        pytest.param(
            PUBLISH_FRAME + raw_header(size=4) + frame(3, 1, b"hello"),
            501,
            "FRAME_ERROR - content body frame exceeds remaining content size",
            (60, 40),
            id="body longer than its size",
        ),
        pytest.param(
            PUBLISH_FRAME + raw_header(size=(1 << 20) + 1),
            501,
            "FRAME_ERROR - content body size 1048577 exceeds maximum allowed size 1048576",
            (60, 40),
            id="body too large",
        ),
        pytest.param(frame(8, 1, b""), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", (0, 0), id="heartbeat of a channel"),
        pytest.param(
            frame(8, 0, b"x"),
            501,
            'FRAME_ERROR - type 8, all octets = <<"x">>: unknown_frame',
            (0, 0),
            id="heartbeat with payload",
        ),
        pytest.param(
            frame(3, 0, b"hello"), 505, 'UNEXPECTED_FRAME - type 3, all octets = <<"hello">>', (0, 0), id="body on channel 0"
        ),
        pytest.param(
            frame(1, 2, basic.Publish("", "q").encode()),
            504,
            "CHANNEL_ERROR - expected 'channel.open'",
            (60, 40),
            id="publish on a channel not open",
        ),
        pytest.param(
            frame(1, 2, b"\x00\x3c\x03\xe7"),
            504,
            "CHANNEL_ERROR - expected 'channel.open'",
            (60, 999),
            id="unknown method on a channel not open",
        ),
        pytest.param(
            frame(1, 1, channel.Open().encode()), 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10), id="opened twice"
        ),
        pytest.param(
            frame(1, 1, queue.DeclareOk("q", 0, 0).encode()),
            503,
            "COMMAND_INVALID - unimplemented method",
            (50, 11),
            id="answer from a client",
        ),
        pytest.param(
            frame(1, 1, connection.CloseOk().encode()),
            503,
            "COMMAND_INVALID - unimplemented method",
            (10, 51),
            id="connection's method on a channel",
        ),
        pytest.param(
            frame(1, 0, channel.Open().encode()),
            504,
            "CHANNEL_ERROR - unexpected method in connection state running",
            (20, 10),
            id="channel's method on 0",
        ),
        pytest.param(
            frame(1, 0, connection.Open("/").encode()),
            504,
            "CHANNEL_ERROR - unexpected method in connection state running",
            (10, 40),
            id="opened again",
        ),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "byte by byte"])
def test_malformed_input_closes_the_connection(data: bytes, code: int, text: str, index: tuple[int, int], whole: bool) -> None:
    """Code, text, class and method are RabbitMQ's; CLOSED follows the client's close-ok, with the same error."""
    talk = open_pair(frame_max=4096)
    events = talk.feed_server(data) if whole else [event for octet in data for event in talk.feed_server(bytes((octet,)))]
    assert events == []
    assert not talk.server.is_open
    assert sent_close(talk.server) == connection.Close(code, text, *index)
    error = closing_error(talk.feed_server(CLOSE_OK))
    assert isinstance(error, ReplyError)
    assert (error.reply_code, error.reply_text, error.class_id, error.method_id) == (code, text, *index)
    assert talk.server.data_to_send() == b""


def test_a_frame_may_exceed_the_limit_by_8_bytes() -> None:
    """RabbitMQ's tolerance: a payload as large as the whole frame may be."""
    talk = open_pair(frame_max=4096)
    body = bytes(4096)
    data = PUBLISH_FRAME + frame(2, 1, header_of(body)) + frame(3, 1, body)
    assert talk.feed_server(data) == [(PUBLISH, 1, ROUTE, 0, header_of(body), body)]


def test_a_body_over_512_mib_is_refused_whatever_is_configured() -> None:
    """RabbitMQ's own limit."""
    talk = open_pair(body_size_max=1 << 40)
    talk.feed_server(PUBLISH_FRAME + raw_header(size=(512 << 20) + 1))
    text = "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912"
    assert sent_close(talk.server).reply_text == text


def test_after_a_lost_frame_border_close_ok_is_still_found() -> None:
    """Where frames begin is unknown, but a peer that answers ends with close-ok, however it is cut."""
    talk = open_pair()
    assert talk.feed_server(frame(1, 1, b"\x00\x3c")[:-1] + b"!" + PUBLISH_FRAME * 3) == []
    assert talk.feed_server(b"garbage" + CLOSE_OK[:5]) == []
    assert isinstance(closing_error(talk.feed_server(CLOSE_OK[5:])), FrameError)


def test_a_client_refuses_a_brokers_mistakes_too() -> None:
    """The same checks in the other role: the connection is closed and the caller told why."""
    talk = open_pair()
    talk.feed_client(frame(1, 1, queue.Declare("q").encode()))
    talk.exchange()
    error = closing_error(talk.client_events)
    assert isinstance(error, ReplyError)
    assert error.reply_text == "COMMAND_INVALID - unimplemented method"
    assert talk.server_events[-1] == (CLOSED, None)


def test_a_consumer_tag_that_is_no_text_is_501() -> None:
    """Tags are UTF-8, from brokers too."""
    talk = open_pair()
    talk.feed_client(deliver_frames(1, b"\x01\xff", 1, False, ROUTE, header_of(b"x"), b"x", 131072))
    assert sent_close(talk.client) == connection.Close(501, "FRAME_ERROR - Malformed UTF-8 in shortstr", 60, 60)


# -------------------------------------------------------------------------------------------------------- closing


def test_the_shell_answers_a_clients_close_when_it_is_ready() -> None:
    """It may need time to put messages back: CLOSED then comes from ``handle_deadline``, which is due at once."""
    talk = open_pair()
    server = talk.server
    close = connection.Close(200, "Goodbye", 0, 0)
    assert list(server.receive_data(frame(1, 0, close.encode()) + PUBLISH_FRAME, 4.0)) == [(METHOD, 0, close, None, None)]
    assert not server.is_open
    assert list(server.receive_data(PUBLISH_FRAME + b"\x99" * 20, 5.0)) == []
    server.send(0, connection.CloseOk())
    assert server.next_deadline_s() == 5.0
    assert server.handle_deadline(5.0) == [(CLOSED, None)]
    assert server.data_to_send() == CLOSE_OK
    assert server.next_deadline_s() is None


def test_a_server_closes_with_a_reason() -> None:
    """A shutdown is 320; the client answers by itself and hears the reason."""
    talk = open_pair()
    talk.server.fail(ConnectionForced("broker forced connection closure with reason 'shutdown'"))
    talk.exchange()
    error = closing_error(talk.client_events)
    assert isinstance(error, ConnectionForced)
    assert error.reply_text == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    assert bytes(talk.client_sent) == CLOSE_OK
    assert talk.client.state is ConnectionState.CLOSED


def test_an_unknown_code_of_a_close_is_passed_on() -> None:
    """A broker may have codes of its own."""
    talk = open_pair()
    error = closing_error(talk.feed_client(frame(1, 0, connection.Close(599, "odd", 1, 2).encode())))
    assert isinstance(error, ReplyError)
    assert (error.reply_code, error.reply_text, error.class_id, error.method_id) == (599, "odd", 1, 2)


def test_crossing_closes_of_a_connection_end_well() -> None:
    """The client ends with its close-ok, the server when that has come; what was wished for is what is reported."""
    talk = open_pair()
    talk.client.close()
    talk.server.fail(ConnectionForced("shutdown"))
    talk.exchange()
    assert talk.client_events == [(CLOSED, None)]
    assert [event[0] for event in talk.server_events] == [CLOSED]
    assert isinstance(closing_error(talk.server_events), ConnectionForced)
    assert talk.server.state is talk.client.state is ConnectionState.CLOSED


@pytest.mark.parametrize(("heartbeat_s", "patience_s"), [(60, 30.0), (10, 10.0)])
def test_a_peer_that_does_not_answer_close_is_left(heartbeat_s: int, patience_s: float) -> None:
    """RabbitMQ waits for the heartbeat's time, at most 30 s."""
    talk = open_pair(heartbeat_s=heartbeat_s)
    talk.server.fail(InternalError("oops"))
    assert talk.server.next_deadline_s() == 0.0
    talk.server.handle_deadline(100.0)
    assert talk.server.handle_deadline(100.0 + patience_s - 0.1) == []
    assert isinstance(closing_error(talk.server.handle_deadline(100.0 + patience_s)), InternalError)


def test_a_clean_close_without_an_answer_is_an_error() -> None:
    """The caller wanted to know that the broker has heard everything."""
    talk = open_pair()
    talk.client.close()
    talk.client.close()
    talk.client.handle_deadline(0.0)
    assert isinstance(closing_error(talk.client.handle_deadline(30.0)), BrokerUnavailable)


def test_the_end_of_the_stream_ends_it_all() -> None:
    """Unannounced it is an error at both ends; while closing it is as good as close-ok."""
    talk = open_pair()
    error = closing_error(talk.feed_client(b""))
    assert isinstance(error, BrokerUnavailable)
    assert str(error) == "the connection to the broker was lost"
    assert talk.feed_client(b"") == []
    error = closing_error(talk.feed_server(b""))
    assert isinstance(error, RemoteProtocolError)
    assert str(error) == "the client closed the stream without connection.close"

    talk = open_pair()
    talk.client.close()
    assert talk.feed_client(b"") == [(CLOSED, None)]
    talk.server.fail(InternalError("oops"))
    assert isinstance(closing_error(talk.feed_server(b"")), InternalError)


def test_nothing_can_be_sent_once_it_is_closed() -> None:
    """Our caller's mistake; fail and close do nothing any more."""
    talk = open_pair()
    talk.feed_client(b"")
    for number, method in ((1, basic.Qos(0, 1, False)), (0, connection.CloseOk())):
        with pytest.raises(LocalProtocolError, match="closed"):
            talk.client.send(number, method)
    talk.client.fail(InternalError("oops"))
    talk.client.close()
    assert talk.client.data_to_send() == b""


def test_closing_before_it_began() -> None:
    """There is nobody to say goodbye to: CLOSED is due at once."""
    client = Connection.client()
    client.start(3.0)
    client.close()
    assert client.next_deadline_s() == 3.0
    assert client.handle_deadline(3.0) == [(CLOSED, None)]


# ----------------------------------------------------------------------------------- heartbeats, blocking, secrets


def test_heartbeats_are_sent_when_nothing_else_is() -> None:
    """Every half of the agreed time without sending, by both ends; they are taken without an event."""
    talk = open_pair(heartbeat_s=10)
    for end in (talk.client, talk.server):
        assert end.next_deadline_s() == 5.0
        assert end.handle_deadline(5.0) == []
        assert end.data_to_send() == HEARTBEAT_FRAME
        assert end.next_deadline_s() == 10.0
    talk.now_s = 6.0
    talk.client.send(1, basic.Qos(0, 1, False))
    assert talk.feed_server(HEARTBEAT_FRAME * 3) == []
    list(talk.client.receive_data(HEARTBEAT_FRAME, 6.0))
    talk.client.data_to_send()
    talk.client.handle_deadline(10.0)
    assert talk.client.next_deadline_s() == 11.0


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_silent_peer_is_given_up(role: str) -> None:
    """Between two and three times the agreed time after its last byte."""
    talk = open_pair(heartbeat_s=10)
    end = talk.client if role == "client" else talk.server
    events: list[Event] = []
    now_s = 0.0
    while not events:
        deadline_s = end.next_deadline_s()
        assert deadline_s is not None
        assert deadline_s > now_s
        now_s = deadline_s
        events = end.handle_deadline(now_s)
    assert 20.0 <= now_s <= 30.0
    error = closing_error(events)
    peer = "the broker" if role == "client" else "the client"
    assert str(error) == f"missed heartbeats from {peer}, timeout: 10 s"
    assert isinstance(error, BrokerUnavailable if role == "client" else RemoteProtocolError)
    assert end.next_deadline_s() is None


def test_half_a_frame_keeps_a_peer_alive() -> None:
    """Any byte counts: a large body over a slow line is no silence."""
    talk = open_pair(heartbeat_s=10)
    data = publish_frames(1, ROUTE, 0, header_of(bytes(50)), bytes(50), 131072)
    for second, octet in enumerate(data[:-1]):
        assert list(talk.server.receive_data(bytes((octet,)), second * 9.0)) == []
        assert talk.server.handle_deadline(second * 9.0) == []
    assert talk.server.is_open


def test_a_server_that_does_not_read_does_not_give_up_its_client() -> None:
    """Back-pressure (RabbitMQ, connection.blocked): the monitor pauses with the reading."""
    talk = open_pair(heartbeat_s=10)
    talk.server.set_reading(False, 0.0)
    for second in range(0, 300, 5):
        assert talk.server.handle_deadline(float(second)) == []
    talk.server.set_reading(True, 300.0)
    assert talk.server.handle_deadline(310.0) == []
    assert talk.server.handle_deadline(320.0) == []
    assert isinstance(closing_error(talk.server.handle_deadline(330.0)), RemoteProtocolError)


def test_blocked_and_update_secret_are_told_to_the_shell() -> None:
    """RabbitMQ's extensions of class connection, on an open connection."""
    talk = open_pair()
    talk.server.send(0, connection.Blocked("low on memory"))
    talk.server.send(0, connection.Unblocked())
    talk.client.send(0, connection.UpdateSecret(b"new", "renewed"))
    talk.exchange()
    talk.server.send(0, connection.UpdateSecretOk())
    talk.exchange()
    assert talk.server_events == [(METHOD, 0, connection.UpdateSecret(b"new", "renewed"), None, None)]
    assert talk.client_events == [
        (METHOD, 0, connection.Blocked("low on memory"), None, None),
        (METHOD, 0, connection.Unblocked(), None, None),
        (METHOD, 0, connection.UpdateSecretOk(), None, None),
    ]


def test_every_other_method_arrives_as_itself() -> None:
    """What the hot path does not know is decoded and told as a METHOD event, at either end."""
    talk = open_pair()
    inline = (basic.Publish, basic.Deliver, basic.Ack, basic.Nack, basic.Reject)
    told = 0
    for method_type in METHODS.values():
        if method_type.INDEX[0] in (connection.Open.INDEX[0], channel.Open.INDEX[0]) or method_type in inline:
            continue
        header = header_of(b"x") if method_type.HAS_CONTENT else None
        body = b"x" if method_type.HAS_CONTENT else None
        event = (METHOD, 1, method_type(), header, body)
        if method_type.FROM_CLIENT:
            talk.client.send(1, method_type(), header, b"x")
            talk.exchange()
            assert talk.server_events.pop() == event
        if method_type.FROM_SERVER:
            talk.server.send(1, method_type(), header, b"x")
            talk.exchange()
            assert talk.client_events.pop() == event
        told += 1
    assert told > 40
    assert access.Request in METHODS.values()
    assert exchange.Bind in METHODS.values()


def test_settlements_are_taken_on_any_channel() -> None:
    """The short path looks the channel up whenever the number changes."""
    talk = open_pair(channels=3)
    data = b"".join(ack_frame(number, tag) for tag in (1, 2) for number in (1, 2, 3)) + nack_frame(2, 9)
    expected: list[Event] = [(ACK, number, tag, 0) for tag in (1, 2) for number in (1, 2, 3)]
    assert talk.feed_server(data) == [*expected, (ACK, 2, 9, NACK_BIT)]


def test_a_message_of_another_connections_size_is_split_for_this_one() -> None:
    """``send`` keeps every frame within what was agreed."""
    talk = open_pair(frame_max=4096)
    body = bytes(10_000)
    talk.server.send(1, basic.Return(312, "NO_ROUTE", "", "q"), header_of(body), body)
    data = talk.server.data_to_send()
    assert data.endswith(content_frames(1, header_of(body), body, 4096))
    assert talk.feed_client(data)[-1][4:] == (body,)


def test_channel_errors_are_distinguished_from_the_connections() -> None:
    """A hard error made by the engine names the frame's class and method."""
    talk = open_pair(channels=0)
    talk.feed_server(frame(1, 1, b"\x00\x14\x00\x28\x00\xc8\x00\x00\x00\x00\x00"))
    talk.exchange()
    error = closing_error(talk.client_events)
    assert isinstance(error, ChannelError)
    assert (error.class_id, error.method_id) == (20, 40)
