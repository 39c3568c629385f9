"""What the engine tells its caller: plain tuples with the tag first, because an object per message is too dear.

``event[0] == PUBLISH`` narrows the type of ``event``, for a type checker as for a reader. All bytes are copies of their own:
keeping one does not keep the buffer it came in.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from leveret.amqp.methods.base import Method
from leveret.amqp.tables import Table
from leveret.errors import LeveretError

__all__ = [
    "ACK",
    "CLOSED",
    "DELIVER",
    "LOGIN",
    "METHOD",
    "MULTIPLE_BIT",
    "NACK_BIT",
    "OPENED",
    "PUBLISH",
    "REJECT_BIT",
    "REQUEUE_BIT",
    "AckEvent",
    "ClosedEvent",
    "ContentEvent",
    "DeliverEvent",
    "Event",
    "LoginEvent",
    "MethodEvent",
    "OpenedEvent",
    "PublishEvent",
]

PUBLISH: Final = 1
DELIVER: Final = 2
ACK: Final = 3
METHOD: Final = 4
OPENED: Final = 5
LOGIN: Final = 6
CLOSED: Final = 7

MULTIPLE_BIT: Final = 1
NACK_BIT: Final = 2
REQUEUE_BIT: Final = 4
REJECT_BIT: Final = 8
"""The bits of an ACK event's kind: 0 is a plain ack; basic.nack has the nack bit, basic.reject that and the reject bit."""

PublishEvent: TypeAlias = tuple[Literal[1], int, bytes, int, bytes, bytes]
"""(PUBLISH, channel, route, bits, header, body), server role. ``route`` is the exchange and the routing key, two short strings
as on the wire; ``bits`` 1 mandatory, 2 immediate; ``header`` the payload of the content header frame."""

DeliverEvent: TypeAlias = tuple[Literal[2], int, str, int, bool, bytes, bytes, bytes]
"""(DELIVER, channel, consumer tag, delivery tag, redelivered, route, header, body), client role."""

AckEvent: TypeAlias = tuple[Literal[3], int, int, int]
"""(ACK, channel, delivery tag, kind): basic.ack, basic.nack and basic.reject; in client role they are publisher confirms."""

MethodEvent: TypeAlias = tuple[Literal[4], int, Method, bytes | None, bytes | None]
"""(METHOD, channel, method, header, body): every other method; header and body only with basic.return and basic.get-ok."""

OpenedEvent: TypeAlias = tuple[Literal[5], str | Table]
"""(OPENED, vhost) in server role, to be answered by ``open_ok`` or ``fail``; (OPENED, server properties) in client role."""

LoginEvent: TypeAlias = tuple[Literal[6], str, bytes, Table]
"""(LOGIN, mechanism, response, client properties), server role, to be answered by ``accept_login`` or ``refuse_login``."""

ClosedEvent: TypeAlias = tuple[Literal[7], LeveretError | None]
"""(CLOSED, error): the conversation is over, cleanly if None. Write what is left to send, then close the transport."""

ContentEvent: TypeAlias = PublishEvent | DeliverEvent | MethodEvent
"""The events that can have a header and a body."""

Event: TypeAlias = PublishEvent | DeliverEvent | AckEvent | MethodEvent | OpenedEvent | LoginEvent | ClosedEvent
