"""AMQP 0-9-1, class connection: the handshake, its refusals, heartbeats, closing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pika
import pytest
from pika import frame as frames
from pika import spec
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

from tests.conformance.conftest import Connect
from tests.support.brokers import Broker
from tests.support.pika_client import channel_closed, open_connection
from tests.support.raw_client import HEARTBEAT, PROTOCOL_HEADER, RawClient, frame_bytes
from tests.support.waiting import wait_until

LOGIN_REFUSED = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."


# ---------------------------------------------------------------------------------------------------- the handshake


def test_protocol_header_is_answered_by_connection_start(raw: RawClient) -> None:
    """connection.start offers version 0-9, the login mechanisms and one locale (1.4.2.1)."""
    start = raw.start()
    assert (start.version_major, start.version_minor) == (0, 9)
    mechanisms = _bytes(start.mechanisms).split(b" ")
    assert b"PLAIN" in mechanisms
    assert b"AMQPLAIN" in mechanisms
    assert _bytes(start.locales) == b"en_US"


def test_header_of_0_9_is_accepted_too(raw: RawClient) -> None:
    """The header ``AMQP 1 1 0 9``, of 0-9 without -1, starts the same conversation."""
    raw.send(b"AMQP\x01\x01\x00\x09")
    raw.receive_method(spec.Connection.Start)


@pytest.mark.parametrize(
    "capability",
    [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        pytest.param("direct_reply_to", marks=pytest.mark.not_yet("pass replies on without a queue")),
    ],
)
def test_server_properties_tell_what_the_broker_can(raw: RawClient, capability: str) -> None:
    """What clients switch their behaviour on is announced, as a boolean."""
    assert raw.start().server_properties["capabilities"].get(capability) is True


def test_server_properties_tell_product_and_version(broker: Broker, raw: RawClient) -> None:
    """Clients that ask for a product or a version find RabbitMQ's."""
    properties = raw.start().server_properties
    assert properties["product"] == "RabbitMQ"
    assert tuple(int(part) for part in properties["version"].split(".")[:2]) == broker.version
    assert {"platform", "information", "copyright", "cluster_name"} <= properties.keys()


@pytest.mark.parametrize(
    "greeting",
    [b"AMQP\x00\x00\x09\x02", b"AMQP\x00\x01\x00\x00", b"GET / HT", b"\x16\x03\x01\x02\x00\x01\x00\x01"],
    ids=["0-9-2", "1.0", "http", "tls"],
)
def test_other_protocols_are_told_ours_and_sent_away(broker: Broker, raw: RawClient, greeting: bytes) -> None:
    """A protocol header that is not ours is answered by ours, and the connection is closed (4.2.2)."""
    raw.send(greeting)
    answer = raw.receive_rest()
    if broker.version < (4, 0):  # from 4.0 on RabbitMQ prefers to name AMQP 1.0 (rabbit_reader.erl, refuse_connection)
        assert answer == PROTOCOL_HEADER
    else:
        assert answer in (PROTOCOL_HEADER, b"AMQP\x03\x01\x00\x00")


def test_handshake_may_come_in_single_bytes(broker: Broker, raw: RawClient) -> None:
    """Where the network cuts the stream means nothing."""
    raw.start()
    start_ok = frames.Method(0, spec.Connection.StartOk({}, "PLAIN", "\x00guest\x00guest")).marshal()
    for byte in start_ok:
        raw.send(bytes([byte]))
    raw.receive_method(spec.Connection.Tune)


def test_tune_offers_limits(raw: RawClient) -> None:
    """The broker offers 2047 channels, frames of 128 KiB and a heartbeat of 60 s."""
    raw.log_in()
    tune = raw.receive_method(spec.Connection.Tune)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)


def test_smaller_limits_of_the_client_hold(broker: Broker, raw: RawClient) -> None:
    """A body goes out in frames no larger than the client said in tune-ok (4.2.3)."""
    raw.open(broker.vhost, frame_max=4096)
    raw.open_channel(1)
    raw.send_method(1, spec.Queue.Declare(exclusive=True))
    queue = raw.receive_method(spec.Queue.DeclareOk).queue
    raw.send_method(1, spec.Basic.Publish(routing_key=queue))
    raw.send(frames.Header(1, 6000, spec.BasicProperties()).marshal())
    raw.send(frame_bytes(spec.FRAME_BODY, 1, b"a" * 4000))
    raw.send(frame_bytes(spec.FRAME_BODY, 1, b"b" * 2000))
    raw.send_method(1, spec.Basic.Get(queue=queue, no_ack=True))
    raw.receive_method(spec.Basic.GetOk)
    header = raw.receive()
    assert isinstance(header, frames.Header)
    assert header.body_size == 6000
    body = b""
    while len(body) < 6000:
        part = raw.receive()
        assert isinstance(part, frames.Body)
        assert len(part.fragment) <= 4096 - 8
        body += part.fragment
    assert body == b"a" * 4000 + b"b" * 2000


def test_open_ok_follows_open(broker: Broker, raw: RawClient) -> None:
    """After connection.open-ok the connection can be used (2.2.4)."""
    raw.open(broker.vhost)
    raw.open_channel(1)


# ---------------------------------------------------------------------------------------------------- logins


def test_plain_login(connect: Connect) -> None:
    """PLAIN takes the user ``guest`` with the password ``guest`` from the loopback interface."""
    assert connect(credentials=pika.PlainCredentials("guest", "guest")).is_open


def test_amqplain_login(raw: RawClient) -> None:
    """AMQPLAIN takes the same pair as a field table without its length."""
    raw.log_in(b"\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x05guest", mechanism="AMQPLAIN")
    raw.receive_method(spec.Connection.Tune)


@pytest.mark.parametrize("response", [b"\x00guest\x00wrong", b"\x00nobody\x00guest", b"\x00guest\x00", b"\x00\x00"])
def test_wrong_password_is_refused_with_403(raw: RawClient, response: bytes) -> None:
    """A client that knows ``authentication_failure_close`` is told, in the same words for a wrong user or password."""
    raw.log_in(response)
    close = raw.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (403, LOGIN_REFUSED)
    assert (close.class_id, close.method_id) == (0, 0)


def test_pika_sees_a_refused_login_as_such(broker: Broker) -> None:
    """A refused login is an error of its own in pika, not a lost connection."""
    with pytest.raises(ProbableAuthenticationError, match="403"):
        open_connection(broker.url, credentials=pika.PlainCredentials("guest", "wrong"))


def _wrong_password(client: RawClient) -> None:
    client.log_in(b"\x00guest\x00wrong", authentication_failure_close=False)


def _unknown_mechanism(client: RawClient) -> None:
    client.log_in(mechanism="ROT13")


def _no_plain_response(client: RawClient) -> None:
    client.log_in(b"guest:guest", authentication_failure_close=False)


def _too_small_frames(client: RawClient) -> None:
    client.tune(frame_max=4095)


def _too_large_frames(client: RawClient) -> None:
    client.tune(frame_max=131073)


def _unlimited_frames(client: RawClient) -> None:
    client.tune(frame_max=0)


def _too_many_channels(client: RawClient) -> None:
    client.tune(channel_max=2048)


def _unlimited_channels(client: RawClient) -> None:
    client.tune(channel_max=0)


@pytest.mark.parametrize(
    "refused",
    [
        # Before 0-9-1 had words for it, a refused login was a closed socket; who does not announce better gets that.
        [_wrong_password, _unknown_mechanism, _no_plain_response],
        # tune-ok may lower the broker's limits, not raise them (0 means "no limit") or go below the least of 4.2.3.
        [_too_small_frames, _too_large_frames, _unlimited_frames, _too_many_channels, _unlimited_channels],
    ],
    ids=["logins", "limits"],
)
def test_other_refusals_end_without_a_word(broker: Broker, refused: list[Callable[[RawClient], None]]) -> None:
    """A login or a limit that is refused with no words provided for it ends in a closed socket (1.4.2.1, 1.4.2.6)."""
    with ExitStack() as clients:  # all at once: RabbitMQ takes three seconds over each
        for refusal in refused:
            client = clients.enter_context(RawClient(broker.server.host, broker.server.port))
            refusal(client)
            clients.callback(_assert_ends_silently, client, refusal.__name__)


def _assert_ends_silently(client: RawClient, refusal: str) -> None:
    assert client.receive_rest() == b"", refusal


def test_unknown_vhost_is_refused_with_530(raw: RawClient) -> None:
    """connection.open names a vhost that exists (1.4.2.7)."""
    raw.tune()
    raw.send_method(0, spec.Connection.Open(virtual_host="/nope"))
    close = raw.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - vhost /nope not found")
    assert (close.class_id, close.method_id) == (10, 40)


# ---------------------------------------------------------------------------------------------------- heartbeats


def test_heartbeat_frames_come_when_nothing_else_does(broker: Broker, raw: RawClient) -> None:
    """With a heartbeat of 1 s negotiated, the broker sends one at least that often (4.2.7)."""
    raw.open(broker.vhost, heartbeat_s=1)
    start_s = time.monotonic()
    for _ in range(2):
        frame = raw.receive()
        assert isinstance(frame, frames.Heartbeat)
        assert frame.channel_number == 0
    assert time.monotonic() - start_s < 2.5


def test_silent_client_is_dropped_after_two_heartbeats(broker: Broker, raw: RawClient) -> None:
    """Between two and three intervals without a byte the connection is dropped, without connection.close."""
    raw.open(broker.vhost, heartbeat_s=1)
    assert 1.8 < raw.seconds_until_end() < 4.0
    assert raw.receive_rest().replace(HEARTBEAT, b"") == b""


def test_any_byte_keeps_a_connection_alive(broker: Broker, raw: RawClient) -> None:
    """Whatever the client sends counts as a sign of life (4.2.7)."""
    raw.open(broker.vhost, heartbeat_s=1)
    raw.open_channel(1)
    end_s = time.monotonic() + 3.5
    while time.monotonic() < end_s:
        raw.send_method(1, spec.Channel.Flow(active=True))
        raw.receive_method(spec.Channel.FlowOk)
        assert isinstance(raw.receive(), frames.Heartbeat)  # paces the loop: about one every half second


def test_heartbeat_on_a_channel_is_an_error(raw_channel: RawClient) -> None:
    """Heartbeats belong to channel 0 (4.2.7): on another one they are an unexpected frame."""
    raw_channel.send(frame_bytes(spec.FRAME_HEARTBEAT, 1, b""))
    close = raw_channel.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (505, "UNEXPECTED_FRAME - type 8, all octets = <<>>")


# ---------------------------------------------------------------------------------------------------- closing


def test_close_is_answered_and_the_socket_closed(broker: Broker, raw: RawClient) -> None:
    """connection.close-ok is the last thing a broker says, and it does not wait for the client to hang up (2.2.4)."""
    raw.open(broker.vhost, heartbeat_s=1)  # for how long RabbitMQ waits for that at most: a heartbeat's interval
    raw.send_method(0, spec.Connection.Close(200, "Goodbye", 0, 0))
    raw.receive_method(spec.Connection.CloseOk)
    assert raw.receive_rest().replace(HEARTBEAT, b"") == b""


def test_exclusive_queues_are_gone_before_close_ok(broker: Broker, raw_channel: RawClient, connect: Connect) -> None:
    """Whoever has seen close-ok finds the connection's exclusive queues deleted."""
    name = broker.name("exclusive")
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, exclusive=True))
    raw_channel.receive_method(spec.Queue.DeclareOk)
    other = connect().channel()
    raw_channel.send_method(0, spec.Connection.Close(200, "Goodbye", 0, 0))
    raw_channel.receive_method(spec.Connection.CloseOk)
    with channel_closed(404, f"NOT_FOUND - no queue '{name}' in vhost '{broker.vhost}'"):
        other.queue_declare(name, passive=True)


def test_after_a_hard_error_only_close_ok_counts(broker: Broker, raw_channel: RawClient) -> None:
    """Between connection.close and close-ok everything else the client sends is ignored (4.6, 4.7)."""
    name = broker.name("ignored")
    raw_channel.send_method(1, spec.Basic.Qos(prefetch_size=10))
    raw_channel.send_method(1, spec.Queue.Declare(queue=name))
    raw_channel.receive_method(spec.Connection.Close)
    raw_channel.send_method(1, spec.Queue.Declare(queue=name))
    raw_channel.send_method(0, spec.Connection.CloseOk())
    assert raw_channel.receive_rest() == b""
    with (
        open_connection(broker.url) as connection,
        channel_closed(404, f"NOT_FOUND - no queue '{name}' in vhost '{broker.vhost}'"),
    ):
        connection.channel().queue_declare(name, passive=True)


def test_method_of_the_handshake_later_on_is_an_error(broker: Broker, raw: RawClient) -> None:
    """A method that has no place in the present state is 504, on the connection."""
    raw.open(broker.vhost)
    raw.send_method(0, spec.Connection.Open(virtual_host=broker.vhost))
    close = raw.receive_method(spec.Connection.Close)
    assert (close.reply_code, close.reply_text) == (504, "CHANNEL_ERROR - unexpected method in connection state running")
    assert (close.class_id, close.method_id) == (10, 40)


def test_new_secret_is_accepted(connect: Connect) -> None:
    """connection.update-secret, an extension of RabbitMQ, is answered; for a password that stays the same it changes nothing."""
    connection = connect()
    connection.update_secret("guest", "a reason")
    assert connection.is_open


def test_lost_connection_frees_its_exclusive_queues(broker: Broker, raw_channel: RawClient, connect: Connect) -> None:
    """A connection that ends without connection.close leaves no exclusive queue behind (1.7.2.1)."""
    name = broker.name("exclusive")
    raw_channel.send_method(1, spec.Queue.Declare(queue=name, exclusive=True))
    raw_channel.receive_method(spec.Queue.DeclareOk)
    connection = connect()

    def reply_code() -> int:
        try:
            connection.channel().queue_declare(name, passive=True)
        except ChannelClosedByBroker as error:
            return error.reply_code
        return 200

    assert reply_code() == 405
    raw_channel.hang_up()
    wait_until(lambda: reply_code() == 404, 10.0, f"{name} to be deleted")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
