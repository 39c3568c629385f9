"""How the generated encoders and decoders fail: the errors they raise, built in one place."""

from __future__ import annotations

import struct
from typing import Final

from leveret.amqp.methods.base import Method
from leveret.amqp.tables import byte_list
from leveret.errors import ConnectionReplyError, FrameError, LocalProtocolError, MethodSyntaxError

__all__ = ["DECODE_FAILURES", "malformed", "out_of_range"]

DECODE_FAILURES: Final = (IndexError, struct.error, FrameError, MethodSyntaxError)
"""What reading malformed arguments can raise, before ``malformed`` makes it an error of the method."""


def malformed(method: type[Method], buffer: bytes, offset: int, cause: Exception | None = None) -> ConnectionReplyError:
    """Return the error for arguments that cannot be decoded.

    It shows all the arguments, as RabbitMQ does, unless the ``cause`` says more: an unknown table tag, or text that is no UTF-8.
    """
    class_id, method_id = method.INDEX
    if isinstance(cause, MethodSyntaxError) or (
        isinstance(cause, FrameError) and isinstance(cause.__cause__, UnicodeDecodeError)
    ):
        return type(cause)("", class_id=class_id, method_id=method_id, reply_text=cause.reply_text)
    return FrameError(f"cannot decode {byte_list(buffer[offset:])}", class_id=class_id, method_id=method_id)


def out_of_range(method: Method) -> LocalProtocolError:
    """Return the error for an integer argument that does not fit its type."""
    return LocalProtocolError(f"an integer of {method.NAME} is out of range: {method!r}")
