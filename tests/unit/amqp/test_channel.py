"""The legality of methods on a channel: the table alone, then both engines against every row of it."""

from __future__ import annotations

import itertools

import pytest

from leveret.amqp.channel import TRANSITIONS, ChannelState, Role, diagram, violation
from leveret.amqp.connection import Connection
from leveret.amqp.frames import content_frames, frame
from leveret.amqp.methods import METHODS, Method, basic, channel, connection, exchange, queue
from leveret.errors import ChannelError, CommandInvalid, LocalProtocolError, NotFound
from tests.support.conversation import Conversation, header_of, open_pair

IDLE, OPENING, OPEN = ChannelState.IDLE, ChannelState.OPENING, ChannelState.OPEN
BY_CLIENT, BY_SERVER, BY_BOTH = (
    ChannelState.CLOSE_SENT_BY_CLIENT,
    ChannelState.CLOSE_SENT_BY_SERVER,
    ChannelState.CLOSE_SENT_BY_BOTH,
)
CLIENT, SERVER = Role.CLIENT, Role.SERVER
CHANNEL_METHODS = [method for method in METHODS.values() if method.INDEX[0] != connection.Open.INDEX[0]]

# Where each end can be when a frame arrives or is to be sent: the server opens at once, and crossing closes are answered at once.
RESTING = [
    (CLIENT, IDLE),
    (CLIENT, OPENING),
    (CLIENT, OPEN),
    (CLIENT, BY_CLIENT),
    (SERVER, IDLE),
    (SERVER, OPEN),
    (SERVER, BY_CLIENT),
    (SERVER, BY_SERVER),
]


def standing_in(role: Role, state: ChannelState) -> tuple[Conversation, Connection]:
    """Return a conversation and its end of that role, whose channel 1 stands in that state."""
    talk = open_pair(channels=0 if state in (IDLE, OPENING) else 1)
    match state:
        case ChannelState.OPENING:
            talk.client.send(1, channel.Open())
        case ChannelState.CLOSE_SENT_BY_CLIENT:
            talk.client.send(1, channel.Close(200, "", 0, 0))
            if role is SERVER:  # its shell has not answered yet
                list(talk.server.receive_data(talk.client.data_to_send(), 0.0))
        case ChannelState.CLOSE_SENT_BY_SERVER:
            talk.server.fail(NotFound("no queue"), 1)
    talk.client.data_to_send()
    talk.server.data_to_send()
    end = talk.client if role is CLIENT else talk.server
    assert end.channel_state(1) is state
    return talk, end


@pytest.mark.parametrize(("role", "state"), RESTING)
def test_an_end_takes_exactly_what_the_table_allows_its_peer(role: Role, state: ChannelState) -> None:
    """Every method in every state: a row leads to its state, no row is a protocol error, a closing end ignores the rest."""
    for method_type in CHANNEL_METHODS:
        _, end = standing_in(role, state)
        expected = TRANSITIONS.get((state, role.peer, method_type))
        list(end.receive_data(frame(1, 1, method_type().encode()), 0.0))
        sent = end.data_to_send()
        if expected is None:
            if state.close_sent_by(role):
                assert end.is_open, method_type
                assert end.channel_state(1) is state
                assert not sent
            else:
                assert not end.is_open, method_type
                close = connection.Close.decode(sent[:-1], 11)
                assert close.reply_code in (503, 504)
                assert (close.class_id, close.method_id) == method_type.INDEX
        else:
            assert end.is_open, method_type
            assert end.channel_state(1) is answered(role, expected), method_type


def answered(role: Role, state: ChannelState) -> ChannelState:
    """Return the state after the answers that the engine gives by itself."""
    if (role, state) == (SERVER, OPENING):
        return OPEN
    if (role, state) == (CLIENT, BY_SERVER):
        return IDLE
    if state is BY_BOTH:
        return BY_CLIENT if role is CLIENT else BY_SERVER
    return state


@pytest.mark.parametrize(("role", "state"), RESTING)
def test_an_end_sends_exactly_what_the_table_allows_it(role: Role, state: ChannelState) -> None:
    """Every method in every state: a row is sent and leads to its state, no row is our caller's error and nothing is sent."""
    for method_type in CHANNEL_METHODS:
        _, end = standing_in(role, state)
        method = method_type()
        header = header_of(b"x") if method_type.HAS_CONTENT else None
        expected = TRANSITIONS.get((state, role, method_type))
        if expected is None:
            with pytest.raises(LocalProtocolError, match=rf"{method_type.NAME} cannot be sent by the {role.value} on channel 1"):
                end.send(1, method, header, b"x")
            assert end.channel_state(1) is state
            assert end.data_to_send() == b""
        else:
            end.send(1, method, header, b"x")
            assert end.channel_state(1) is expected
            content = content_frames(1, header, b"x", end.frame_max) if header is not None else b""
            assert end.data_to_send() == frame(1, 1, method.encode()) + content


def test_the_table_names_every_method_of_a_channel() -> None:
    """No method is forgotten, and those of class connection have no row: they belong to channel 0."""
    assert {method for _, _, method in TRANSITIONS} == set(CHANNEL_METHODS)


@pytest.mark.parametrize(
    ("sender", "method", "allowed"),
    [
        (CLIENT, queue.Declare, True),
        (SERVER, queue.Declare, False),
        (SERVER, queue.DeclareOk, True),
        (CLIENT, queue.DeclareOk, False),
        (CLIENT, basic.Publish, True),
        (SERVER, basic.Publish, False),
        (SERVER, basic.Deliver, True),
        (SERVER, basic.Return, True),
        (SERVER, basic.GetOk, True),
        (CLIENT, basic.Ack, True),
        (SERVER, basic.Ack, True),
        (CLIENT, basic.Nack, True),
        (SERVER, basic.Nack, True),
        (CLIENT, basic.Reject, True),
        (SERVER, basic.Reject, False),
        (CLIENT, basic.Cancel, True),
        (SERVER, basic.Cancel, True),
        (CLIENT, channel.Flow, True),
        (SERVER, channel.Flow, True),
        (CLIENT, exchange.Bind, True),
        (SERVER, exchange.UnbindOk, True),
    ],
)
def test_who_may_send_what_on_an_open_channel(sender: Role, method: type[Method], allowed: bool) -> None:
    """Requests come from the client, answers from the server, confirms and consumer cancellation from both (RabbitMQ)."""
    assert ((OPEN, sender, method) in TRANSITIONS) is allowed


def test_nothing_can_be_done_on_a_channel_that_is_not_open() -> None:
    """Besides opening and closing, all rows begin and end in OPEN."""
    for (state, _, method), next_state in TRANSITIONS.items():
        if method not in (channel.Open, channel.OpenOk, channel.Close, channel.CloseOk):
            assert (state, next_state) == (OPEN, OPEN)


def test_every_state_can_be_left_and_leads_back_to_idle() -> None:
    """No row is a trap: from every state close-ok's lead back to a number that can be used again."""
    states: set[ChannelState] = set(ChannelState)
    leading_back = {IDLE}
    for _ in states:
        leading_back |= {state for (state, _, _), next_state in TRANSITIONS.items() if next_state in leading_back}
    assert leading_back == states


@pytest.mark.parametrize(
    ("state", "method", "error", "text"),
    [
        (IDLE, queue.Declare, ChannelError, "CHANNEL_ERROR - expected 'channel.open'"),
        (BY_CLIENT, queue.Declare, ChannelError, "CHANNEL_ERROR - expected 'channel.open'"),
        (OPEN, channel.Open, ChannelError, "CHANNEL_ERROR - second 'channel.open' seen"),
        (OPEN, queue.DeclareOk, CommandInvalid, "COMMAND_INVALID - unimplemented method"),
        (OPEN, connection.Tune, CommandInvalid, "COMMAND_INVALID - unimplemented method"),
    ],
)
def test_violations_have_rabbitmqs_codes_and_texts(
    state: ChannelState, method: type[Method], error: type[Exception], text: str
) -> None:
    """504 around opening, 503 for what no broker knows to answer; class and method are those of the frame."""
    found = violation(state, method)
    assert type(found) is error
    assert found.reply_text == text
    assert (found.class_id, found.method_id) == method.INDEX


def test_closing_is_seen_from_either_side() -> None:
    """An end that has sent close ignores everything but close and close-ok; the other does not."""
    seen = {(state, role) for state, role in itertools.product(ChannelState, Role) if state.close_sent_by(role)}
    assert seen == {(BY_CLIENT, CLIENT), (BY_SERVER, SERVER), (BY_BOTH, CLIENT), (BY_BOTH, SERVER)}


def test_the_diagram_draws_every_row() -> None:
    """Documentation is printed from the table: one arrow per pair of states and sender, with all its methods."""
    drawn = diagram()
    assert drawn.startswith("stateDiagram-v2\n    IDLE --> OPENING: client channel.open\n")
    assert "    CLOSE_SENT_BY_CLIENT --> CLOSE_SENT_BY_BOTH: server channel.close\n" in drawn
    arrows = [line.split(": ", 1) for line in drawn.splitlines()[1:]]
    assert len(arrows) == len({(state, sender, next_state) for (state, sender, _), next_state in TRANSITIONS.items()})
    assert sum(len(names.split(", ")) for _, names in arrows) == len(TRANSITIONS)
