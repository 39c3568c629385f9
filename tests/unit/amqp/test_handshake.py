"""The handshake's decisions alone: limits, mechanisms, the table of a connection's life."""

from __future__ import annotations

import pytest

from leveret.amqp.channel import Role
from leveret.amqp.handshake import (
    CLIENT_CAPABILITIES,
    TRANSITIONS,
    ClientOptions,
    ConnectionState,
    ServerOptions,
    diagram,
    lost_during,
    make_start,
    make_start_ok,
    make_tune_ok,
    tune_ok_refusal,
)
from leveret.amqp.methods import connection
from leveret.errors import RemoteProtocolError


def client_options(*, heartbeat_s: int = 60, channel_max: int = 2047, frame_max: int = 131072) -> ClientOptions:
    """Return a client's wishes."""
    return ClientOptions(
        vhost="/",
        properties={"product": "Leveret"},
        mechanism="PLAIN",
        response=b"\0guest\0secret",
        heartbeat_s=heartbeat_s,
        channel_max=channel_max,
        frame_max=frame_max,
    )


def server_options(*, channel_max: int = 2047, frame_max: int = 131072) -> ServerOptions:
    """Return a server's offer."""
    return ServerOptions(
        properties={"product": "RabbitMQ"},
        mechanisms=("PLAIN", "AMQPLAIN"),
        heartbeat_s=60,
        channel_max=channel_max,
        frame_max=frame_max,
    )


def test_start_lists_the_mechanisms() -> None:
    """Version 0-9, mechanisms separated by spaces, one locale."""
    assert make_start(server_options()) == connection.Start(0, 9, {"product": "RabbitMQ"}, b"PLAIN AMQPLAIN", b"en_US")


def test_start_ok_has_the_login_and_the_capabilities() -> None:
    """The caller's properties, with what this client understands of RabbitMQ's extensions."""
    assert make_start_ok(client_options(), connection.Start(0, 9, {}, b"AMQPLAIN PLAIN", b"en_US")) == connection.StartOk(
        client_properties={"product": "Leveret", "capabilities": {**CLIENT_CAPABILITIES}},
        mechanism="PLAIN",
        response=b"\0guest\0secret",
        locale="en_US",
    )
    assert all(CLIENT_CAPABILITIES.values())


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (connection.Start(0, 8, {}, b"PLAIN", b"en_US"), "the broker speaks AMQP 0-8, not 0-9-1"),
        (connection.Start(0, 9, {}, b"EXTERNAL ANONYMOUS", b"en_US"), "the login mechanisms EXTERNAL ANONYMOUS, not PLAIN"),
    ],
)
def test_a_start_we_cannot_answer_is_the_brokers_error(start: connection.Start, text: str) -> None:
    """Another version, or none of our mechanisms."""
    with pytest.raises(RemoteProtocolError, match=text):
        make_start_ok(client_options(), start)


def test_the_password_is_not_shown() -> None:
    """Options can be printed."""
    assert "secret" not in repr(client_options())


@pytest.mark.parametrize(
    ("own", "offered", "agreed"),
    [
        ((2047, 131072, 60), (2047, 131072, 60), (2047, 131072, 60)),
        ((100, 8192, 30), (2047, 131072, 60), (100, 8192, 30)),
        ((2047, 131072, 60), (100, 8192, 30), (100, 8192, 30)),
        ((0, 0, 60), (2047, 131072, 60), (2047, 131072, 60)),
        ((2047, 131072, 60), (0, 0, 0), (2047, 131072, 60)),
        ((0, 0, 0), (0, 0, 60), (0, 0, 0)),
    ],
)
def test_each_limit_is_the_smaller_and_0_is_none(
    own: tuple[int, int, int], offered: tuple[int, int, int], agreed: tuple[int, int, int]
) -> None:
    """0 is no limit at that end; but a client that wants no heartbeats gets none, whatever is offered."""
    options = client_options(channel_max=own[0], frame_max=own[1], heartbeat_s=own[2])
    assert make_tune_ok(options, connection.Tune(*offered)) == connection.TuneOk(*agreed)


def test_a_frame_size_below_the_minimum_is_the_brokers_error() -> None:
    """Every peer must take frames of 4096 bytes (AMQP 0-9-1, 4.2.3)."""
    with pytest.raises(RemoteProtocolError, match="frames of 4095 bytes at most"):
        make_tune_ok(client_options(), connection.Tune(2047, 4095, 60))


@pytest.mark.parametrize(
    ("tune_ok", "refusal"),
    [
        ((2047, 131072, 60), None),
        ((1, 4096, 0), None),
        ((2047, 131072, 65535), None),
        ((2048, 131072, 60), "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"),
        ((0, 131072, 60), "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)"),
        ((2047, 131073, 60), "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"),
        ((2047, 0, 60), "negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)"),
        ((2047, 4095, 60), "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"),
    ],
)
def test_a_server_takes_limits_up_to_its_own(tune_ok: tuple[int, int, int], refusal: str | None) -> None:
    """RabbitMQ's checks; any heartbeat will do."""
    assert tune_ok_refusal(server_options(), connection.TuneOk(*tune_ok)) == refusal


def test_a_server_without_limits_takes_any() -> None:
    """A server's 0 is no limit, but frames still hold at least the minimum."""
    options = server_options(channel_max=0, frame_max=0)
    assert tune_ok_refusal(options, connection.TuneOk(0, 0, 0)) is None
    assert tune_ok_refusal(options, connection.TuneOk(65535, 1 << 31, 0)) is None
    assert tune_ok_refusal(options, connection.TuneOk(0, 100, 0)) is not None


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ConnectionState.AWAITING_START, "h:1 closed the connection without an answer: is it an AMQP 0-9-1 broker"),
        (ConnectionState.SECURING, "h:1 closed the connection during login: wrong user name or password?"),
        (ConnectionState.OPENING, "h:1 closed the connection while opening virtual host 'v'"),
        (ConnectionState.OPEN_SENT, "h:1 closed the connection while opening virtual host 'v'"),
        (ConnectionState.RUNNING, "the connection to h:1 was lost"),
    ],
)
def test_a_lost_connection_says_at_which_step(state: ConnectionState, text: str) -> None:
    """A broker that refuses silently is only heard by where it stops."""
    assert text in lost_during(state, peer="h:1", vhost="v")


def test_the_way_to_running_is_one_line() -> None:
    """From the first state, without closing, there is exactly one way on at each step (1.4: the grammar)."""
    state, names = ConnectionState.AWAITING_START, []
    while state is not ConnectionState.RUNNING:
        rows = [(key, to) for key, to in TRANSITIONS.items() if key[0] is state and key[2] is not connection.Close]
        (((_, sender, method), state),) = rows
        names.append(f"{sender.value} {method.NAME.removeprefix('connection.')}")
    assert names == ["server start", "client start-ok", "server tune", "client tune-ok", "client open", "server open-ok"]


def test_either_end_may_close_from_start_on() -> None:
    """A close in every state between start and the first close; every close leads to CLOSED."""
    for state in ConnectionState:
        closable = state not in (ConnectionState.AWAITING_START, ConnectionState.REFUSING, ConnectionState.CLOSED)
        for role in Role:
            may_close = closable and not state.close_sent_by(role)
            assert ((state, role, connection.Close) in TRANSITIONS) is may_close
    leading_to_closed = {ConnectionState.CLOSED}
    for _ in ConnectionState:
        leading_to_closed |= {state for (state, _, _), next_state in TRANSITIONS.items() if next_state in leading_to_closed}
    assert leading_to_closed == set(ConnectionState) - {ConnectionState.REFUSING}


def test_the_diagram_draws_every_row() -> None:
    """Documentation is printed from the table."""
    drawn = diagram()
    assert "    AWAITING_START --> STARTING: server connection.start\n" in drawn
    assert sum(len(line.split(": ")[1].split(", ")) for line in drawn.splitlines()[1:]) == len(TRANSITIONS)
