"""The life of a connection as data, and what each end says while it opens (AMQP 0-9-1, 1.4 and 2.2.4).

::

    client                                     server                          state after it, at both ends
    AMQP 0 0 9 1 ────────────────────────────►                                 AWAITING_START
                 ◄──────────────────────────── start: properties, mechanisms   STARTING
    start-ok: properties, login ─────────────►                                 SECURING
                 ◄──────────────────────────── tune: limits, heartbeat         TUNING
    tune-ok: limits, heartbeat ──────────────►                                 OPENING
    open: vhost ─────────────────────────────►                                 OPEN_SENT
                 ◄──────────────────────────── open-ok                         RUNNING

connection.secure is not here: the mechanisms of RabbitMQ and of Leveret need no second step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from leveret.amqp.channel import Role, draw
from leveret.amqp.constants import FRAME_MIN_SIZE
from leveret.amqp.methods import connection
from leveret.amqp.methods.base import Method
from leveret.amqp.tables import Table
from leveret.errors import RemoteProtocolError

__all__ = [
    "CLIENT_CAPABILITIES",
    "CLOSING_TIMEOUT_S",
    "HANDSHAKE_TIMEOUT_S",
    "SILENT_CLOSE_DELAY_S",
    "TRANSITIONS",
    "ClientOptions",
    "ConnectionState",
    "ServerOptions",
    "diagram",
    "lost_during",
    "make_start",
    "make_start_ok",
    "make_tune_ok",
    "tune_ok_refusal",
]

HANDSHAKE_TIMEOUT_S: Final = 10.0
CLOSING_TIMEOUT_S: Final = 30.0
"""How long the peer may take for close-ok; less where the heartbeat is (RabbitMQ's ``CLOSING_TIMEOUT``)."""
SILENT_CLOSE_DELAY_S: Final = 3.0
"""How long a refused client that cannot be told waits for the end: it slows down guessing (``SILENT_CLOSE_DELAY``)."""

CLIENT_CAPABILITIES: Final[Mapping[str, bool]] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}


class ConnectionState(Enum):
    """Where a connection stands; the values are the words of RabbitMQ's error texts."""

    AWAITING_START = "waiting"
    STARTING = "starting"
    SECURING = "securing"
    TUNING = "tuning"
    OPENING = "opening"
    OPEN_SENT = "opening the virtual host"
    RUNNING = "running"
    CLOSE_SENT_BY_CLIENT = "close sent by client"
    CLOSE_SENT_BY_SERVER = "close sent by server"
    CLOSE_SENT_BY_BOTH = "close sent by both"
    REFUSING = "refusing"
    """Nothing more is read or sent: the end comes after a delay, or as soon as the peer has answered or gone."""
    CLOSED = "closed"

    def close_sent_by(self, role: Role) -> bool:
        """Return whether this end has asked to close and waits for close-ok: it ignores all but close and close-ok."""
        return self is ConnectionState.CLOSE_SENT_BY_BOTH or self is _CLOSE_SENT_BY[role]


_CLOSE_SENT_BY: Final = {Role.CLIENT: ConnectionState.CLOSE_SENT_BY_CLIENT, Role.SERVER: ConnectionState.CLOSE_SENT_BY_SERVER}
_BEFORE_CLOSE: Final = (
    ConnectionState.STARTING,
    ConnectionState.SECURING,
    ConnectionState.TUNING,
    ConnectionState.OPENING,
    ConnectionState.OPEN_SENT,
    ConnectionState.RUNNING,
)

TRANSITIONS: Final[Mapping[tuple[ConnectionState, Role, type[Method]], ConnectionState]] = {
    (ConnectionState.AWAITING_START, Role.SERVER, connection.Start): ConnectionState.STARTING,
    (ConnectionState.STARTING, Role.CLIENT, connection.StartOk): ConnectionState.SECURING,
    (ConnectionState.SECURING, Role.SERVER, connection.Tune): ConnectionState.TUNING,
    (ConnectionState.TUNING, Role.CLIENT, connection.TuneOk): ConnectionState.OPENING,
    (ConnectionState.OPENING, Role.CLIENT, connection.Open): ConnectionState.OPEN_SENT,
    (ConnectionState.OPEN_SENT, Role.SERVER, connection.OpenOk): ConnectionState.RUNNING,
    (ConnectionState.RUNNING, Role.SERVER, connection.Blocked): ConnectionState.RUNNING,
    (ConnectionState.RUNNING, Role.SERVER, connection.Unblocked): ConnectionState.RUNNING,
    (ConnectionState.RUNNING, Role.CLIENT, connection.UpdateSecret): ConnectionState.RUNNING,
    (ConnectionState.RUNNING, Role.SERVER, connection.UpdateSecretOk): ConnectionState.RUNNING,
    **{(state, Role.CLIENT, connection.Close): ConnectionState.CLOSE_SENT_BY_CLIENT for state in _BEFORE_CLOSE},
    **{(state, Role.SERVER, connection.Close): ConnectionState.CLOSE_SENT_BY_SERVER for state in _BEFORE_CLOSE},
    (ConnectionState.CLOSE_SENT_BY_CLIENT, Role.SERVER, connection.CloseOk): ConnectionState.CLOSED,
    (ConnectionState.CLOSE_SENT_BY_SERVER, Role.CLIENT, connection.CloseOk): ConnectionState.CLOSED,
    (ConnectionState.CLOSE_SENT_BY_CLIENT, Role.SERVER, connection.Close): ConnectionState.CLOSE_SENT_BY_BOTH,
    (ConnectionState.CLOSE_SENT_BY_SERVER, Role.CLIENT, connection.Close): ConnectionState.CLOSE_SENT_BY_BOTH,
    # Of two crossing closes the client's close-ok ends it all. The server waits for it: closing the socket with that frame
    # still on its way would reset the connection, and with it what the client has not read yet.
    (ConnectionState.CLOSE_SENT_BY_BOTH, Role.SERVER, connection.CloseOk): ConnectionState.CLOSE_SENT_BY_SERVER,
    (ConnectionState.CLOSE_SENT_BY_BOTH, Role.CLIENT, connection.CloseOk): ConnectionState.CLOSED,
}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What a client says of itself and wants; a limit of 0 is no limit, a heartbeat of 0 is none."""

    vhost: str
    properties: Table
    mechanism: str
    response: bytes = field(repr=False)  # it holds the password
    heartbeat_s: int
    channel_max: int
    frame_max: int


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server says of itself and offers."""

    properties: Table
    mechanisms: Sequence[str]
    heartbeat_s: int
    channel_max: int
    frame_max: int


def make_start(options: ServerOptions) -> connection.Start:
    """Return the server's first method."""
    return connection.Start(
        version_major=0,
        version_minor=9,
        server_properties=options.properties,
        mechanisms=" ".join(options.mechanisms).encode(),
        locales=b"en_US",
    )


def make_start_ok(options: ClientOptions, start: connection.Start) -> connection.StartOk:
    """Return the client's answer: who it is and its login.

    Raises ``RemoteProtocolError`` when the server offers another version or not our mechanism.
    """
    if (start.version_major, start.version_minor) != (0, 9):
        raise RemoteProtocolError(f"the broker speaks AMQP {start.version_major}-{start.version_minor}, not 0-9-1")
    offered = start.mechanisms.decode(errors="replace").split()
    if options.mechanism not in offered:
        raise RemoteProtocolError(f"the broker offers the login mechanisms {' '.join(offered)}, not {options.mechanism}")
    capabilities: Table = {**CLIENT_CAPABILITIES}
    return connection.StartOk(
        client_properties={**options.properties, "capabilities": capabilities},
        mechanism=options.mechanism,
        response=options.response,
        locale="en_US",
    )


def make_tune_ok(options: ClientOptions, tune: connection.Tune) -> connection.TuneOk:
    """Return the limits both ends can live with: of each the smaller, where 0 is no limit.

    A heartbeat of 0 is the client's wish to have none. Raises ``RemoteProtocolError`` for a frame size no peer may ask for.
    """
    if 0 < tune.frame_max < FRAME_MIN_SIZE:
        raise RemoteProtocolError(
            f"the broker takes frames of {tune.frame_max} bytes at most; AMQP 0-9-1 demands {FRAME_MIN_SIZE}"
        )
    return connection.TuneOk(
        channel_max=_smaller_limit(options.channel_max, tune.channel_max),
        frame_max=_smaller_limit(options.frame_max, tune.frame_max),
        heartbeat=_smaller_limit(options.heartbeat_s, tune.heartbeat) if options.heartbeat_s else 0,
    )


def tune_ok_refusal(options: ServerOptions, tune_ok: connection.TuneOk) -> str | None:
    """Return why a client's tune-ok cannot be taken, or None. Its heartbeat is always taken (RabbitMQ does so)."""
    for name, value, minimum, maximum in (
        ("channel_max", tune_ok.channel_max, 0, options.channel_max),
        ("frame_max", tune_ok.frame_max, FRAME_MIN_SIZE, options.frame_max),
    ):
        if value and value < minimum:
            return f"negotiated {name} = {value} is lower than the minimum allowed value ({minimum})"
        if maximum and value > maximum:
            return f"negotiated {name} = {value} is higher than the maximum allowed value ({maximum})"
        if maximum and not value:
            return f"negotiated {name} = 0 (no limit) is higher than the maximum allowed value ({maximum})"
    return None


def lost_during(state: ConnectionState, *, peer: str, vhost: str) -> str:
    """Return what the end of the stream says to a client that was opening its connection."""
    match state:
        case ConnectionState.AWAITING_START:
            return f"{peer} closed the connection without an answer: is it an AMQP 0-9-1 broker, and does it expect TLS?"
        case ConnectionState.STARTING | ConnectionState.SECURING:
            # Brokers refuse some logins without a word (RabbitMQ: from afar as guest, or an unknown mechanism).
            return f"{peer} closed the connection during login: wrong user name or password?"
        case ConnectionState.TUNING | ConnectionState.OPENING | ConnectionState.OPEN_SENT:
            return f"{peer} closed the connection while opening virtual host {vhost!r}: no access to it?"
        case _:
            return f"the connection to {peer} was lost"


def diagram() -> str:
    """Return ``TRANSITIONS`` as a Mermaid state diagram, for the documentation."""
    return draw(TRANSITIONS)


def _smaller_limit(own: int, offered: int) -> int:
    return min(own, offered) if own and offered else own or offered
