r"""The login mechanisms: building and reading the response of connection.start-ok.

=========  ====================================================================================================
PLAIN      ``\0username\0password`` (RFC 4616 without an authorization id)
AMQPLAIN   a field table without its size, with LOGIN and PASSWORD; RabbitMQ's own, for clients that predate PLAIN
EXTERNAL   nothing: the TLS certificate of the client says who it is
=========  ====================================================================================================

No error here quotes a response: it holds a password.
"""

from __future__ import annotations

from typing import Final

from leveret.amqp.tables import FieldValue, decode_table, encode_table
from leveret.errors import AccessRefused, ConfigurationError, FrameError, MethodSyntaxError

__all__ = ["AMQPLAIN", "EXTERNAL", "PLAIN", "build", "parse"]

PLAIN: Final = "PLAIN"
AMQPLAIN: Final = "AMQPLAIN"
EXTERNAL: Final = "EXTERNAL"


def build(mechanism: str, username: str, password: str) -> bytes:
    """Return the response with which a client logs in.

    Raises ``ConfigurationError`` for a mechanism that is not one of the three, or a zero byte where PLAIN has no place for it.
    """
    match mechanism:
        case "PLAIN":
            if "\0" in username or "\0" in password:
                raise ConfigurationError("PLAIN takes no zero byte in a user name or password")
            return f"\0{username}\0{password}".encode()
        case "AMQPLAIN":
            return encode_table({"LOGIN": username, "PASSWORD": password})[4:]
        case "EXTERNAL":
            return b""
        case _:
            raise ConfigurationError(f"login mechanism {mechanism!r} is not one of {PLAIN}, {AMQPLAIN} and {EXTERNAL}")


def parse(mechanism: str, response: bytes) -> tuple[str, str]:
    """Read (user name, password) from the response of a client.

    Raises ``MethodSyntaxError`` for a malformed response and ``AccessRefused`` for a mechanism without a password in it.
    """
    match mechanism:
        case "PLAIN":
            return _parse_plain(response)
        case "AMQPLAIN":
            return _parse_amqplain(response)
        case _:
            raise AccessRefused(f"login mechanism {mechanism!r} carries no password")


def _parse_plain(response: bytes) -> tuple[str, str]:
    # Exactly two zero bytes, the first of them in front: RabbitMQ takes no authorization id either.
    parts = response.split(b"\0")
    if len(parts) != 3 or parts[0]:
        raise MethodSyntaxError("the response of PLAIN must be a zero byte, the user name, a zero byte and the password")
    return _text(parts[1], PLAIN), _text(parts[2], PLAIN)


def _parse_amqplain(response: bytes) -> tuple[str, str]:
    try:
        table, _ = decode_table(len(response).to_bytes(4) + response, 0)
    except (FrameError, MethodSyntaxError):
        # The error shows the bytes it could not decode: it must not be seen, in a chain either.
        table = {}
    if "LOGIN" not in table or "PASSWORD" not in table:
        raise MethodSyntaxError("the response of AMQPLAIN must be a field table with LOGIN and PASSWORD")
    return _text(table["LOGIN"], AMQPLAIN), _text(table["PASSWORD"], AMQPLAIN)


def _text(value: FieldValue, mechanism: str) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
        # Nobody's name or password has a replacement character in it; what was no UTF-8 matches no user.
        if "\N{REPLACEMENT CHARACTER}" in value:
            raise MethodSyntaxError(f"the user name and password in the response of {mechanism} must be UTF-8")
    if not isinstance(value, str):
        raise MethodSyntaxError(f"the user name and password in the response of {mechanism} must be strings")
    return value
