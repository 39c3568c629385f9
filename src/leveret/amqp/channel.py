"""The legality of methods on a channel, as data (AMQP 0-9-1, 2.2.5 and 1.5.2): whoever may send what, and what it leads to.

The table does not know whose side we are on: the engine asks it with the peer as sender for what arrives, with itself for
what it sends. A missing key is the protocol error. basic.publish, deliver, ack and nack on an open channel do not ask:
they are the hot path, and the rows below say that they would be allowed.

::

    IDLE ── open ──► OPENING ── open-ok ──► OPEN ── close ──► CLOSE_SENT_BY_… ── close-ok ──► IDLE
                                                                    │  ▲
                                                    the other close ▼  │ either close-ok
                                                            CLOSE_SENT_BY_BOTH

``diagram()`` draws it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from leveret.amqp.methods import METHODS, channel, connection
from leveret.amqp.methods.base import Method
from leveret.errors import ChannelError, CommandInvalid, ReplyError

__all__ = ["TRANSITIONS", "ChannelState", "Role", "diagram", "draw", "violation"]


class Role(Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> Role:
        """Return the other end."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class ChannelState(Enum):
    """Where a channel stands; IDLE is every number that nobody uses."""

    IDLE = "idle"
    OPENING = "opening"
    OPEN = "open"
    CLOSE_SENT_BY_CLIENT = "close sent by client"
    CLOSE_SENT_BY_SERVER = "close sent by server"
    CLOSE_SENT_BY_BOTH = "close sent by both"

    def close_sent_by(self, role: Role) -> bool:
        """Return whether this end has asked to close and waits for close-ok: it ignores all but close and close-ok."""
        return self is ChannelState.CLOSE_SENT_BY_BOTH or self is _CLOSE_SENT_BY[role]


_CLOSE_SENT_BY: Final = {Role.CLIENT: ChannelState.CLOSE_SENT_BY_CLIENT, Role.SERVER: ChannelState.CLOSE_SENT_BY_SERVER}

_OPEN_AND_CLOSE: Final = (channel.Open, channel.OpenOk, channel.Close, channel.CloseOk)
_ON_OPEN_CHANNELS: Final = [
    method for method in METHODS.values() if method.INDEX[0] != connection.Open.INDEX[0] and method not in _OPEN_AND_CLOSE
]

TRANSITIONS: Final[Mapping[tuple[ChannelState, Role, type[Method]], ChannelState]] = {
    (ChannelState.IDLE, Role.CLIENT, channel.Open): ChannelState.OPENING,
    (ChannelState.OPENING, Role.SERVER, channel.OpenOk): ChannelState.OPEN,
    (ChannelState.OPENING, Role.SERVER, channel.Close): ChannelState.CLOSE_SENT_BY_SERVER,
    (ChannelState.OPEN, Role.CLIENT, channel.Close): ChannelState.CLOSE_SENT_BY_CLIENT,
    (ChannelState.OPEN, Role.SERVER, channel.Close): ChannelState.CLOSE_SENT_BY_SERVER,
    (ChannelState.CLOSE_SENT_BY_CLIENT, Role.SERVER, channel.CloseOk): ChannelState.IDLE,
    (ChannelState.CLOSE_SENT_BY_SERVER, Role.CLIENT, channel.CloseOk): ChannelState.IDLE,
    # Crossing closes: each end answers the other's and still waits for the answer to its own.
    (ChannelState.CLOSE_SENT_BY_CLIENT, Role.SERVER, channel.Close): ChannelState.CLOSE_SENT_BY_BOTH,
    (ChannelState.CLOSE_SENT_BY_SERVER, Role.CLIENT, channel.Close): ChannelState.CLOSE_SENT_BY_BOTH,
    (ChannelState.CLOSE_SENT_BY_BOTH, Role.CLIENT, channel.CloseOk): ChannelState.CLOSE_SENT_BY_CLIENT,
    (ChannelState.CLOSE_SENT_BY_BOTH, Role.SERVER, channel.CloseOk): ChannelState.CLOSE_SENT_BY_SERVER,
    # Work on an open channel leaves it open; which end may send what is part of each method's definition.
    **{(ChannelState.OPEN, Role.CLIENT, method): ChannelState.OPEN for method in _ON_OPEN_CHANNELS if method.FROM_CLIENT},
    **{(ChannelState.OPEN, Role.SERVER, method): ChannelState.OPEN for method in _ON_OPEN_CHANNELS if method.FROM_SERVER},
}


def violation(state: ChannelState, method: type[Method]) -> ReplyError:
    """Return the error for a received method that ``TRANSITIONS`` has no row for, with RabbitMQ's texts."""
    class_id, method_id = method.INDEX
    if state is not ChannelState.OPEN:
        return ChannelError("expected 'channel.open'", class_id=class_id, method_id=method_id)
    if method is channel.Open:
        return ChannelError("second 'channel.open' seen", class_id=class_id, method_id=method_id)
    return CommandInvalid("unimplemented method", class_id=class_id, method_id=method_id)


def diagram() -> str:
    """Return ``TRANSITIONS`` as a Mermaid state diagram, for the documentation."""
    return draw(TRANSITIONS)


_State = TypeVar("_State", bound=Enum)


def draw(transitions: Mapping[tuple[_State, Role, type[Method]], _State]) -> str:
    """Return a legality table as a Mermaid state diagram, one arrow per pair of states and sender."""
    arrows: dict[tuple[_State, _State, Role], list[str]] = {}
    for (state, sender, method), next_state in transitions.items():
        arrows.setdefault((state, next_state, sender), []).append(method.NAME)
    lines = ["stateDiagram-v2"]
    for (state, next_state, sender), names in arrows.items():
        lines.append(f"    {state.name} --> {next_state.name}: {sender.value} {', '.join(names)}")
    return "\n".join(lines) + "\n"
