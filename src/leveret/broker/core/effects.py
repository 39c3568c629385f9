"""What the core asks the shell to send to one client: plain tuples, tag first, made once per message or method."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from leveret.amqp.methods.base import Method
from leveret.broker.core.message import Message

__all__ = ["CONFIRM", "DELIVER", "SEND", "Confirm", "Deliver", "Effect", "Send"]

DELIVER: Final = 1
CONFIRM: Final = 2
SEND: Final = 3

Deliver: TypeAlias = tuple[Literal[1], int, bytes, int, bool, Message]
"""(DELIVER, channel, consumer tag as a short string, delivery tag, redelivered, message)"""

Confirm: TypeAlias = tuple[Literal[2], int, int, bool]
"""(CONFIRM, channel, delivery tag, multiple): basic.ack to a publisher"""

Send: TypeAlias = tuple[Literal[3], int, Method, bytes | None, bytes]
"""(SEND, channel, method, content header or None, body)"""

Effect: TypeAlias = Deliver | Confirm | Send
