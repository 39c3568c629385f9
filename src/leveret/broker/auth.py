"""Who may log in."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from leveret.amqp import sasl
from leveret.errors import AccessRefused, AMQPError

__all__ = ["GUEST", "MECHANISMS", "Users"]

GUEST: Final = "guest"
MECHANISMS: Final = (sasl.AMQPLAIN, sasl.PLAIN)
"""As connection.start lists them."""


class Users:
    """User names and passwords; ``guest`` may only come from this machine, as on RabbitMQ."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = {name: password.encode() for name, password in passwords.items()}

    def login(self, mechanism: str, response: bytes, *, from_loopback: bool) -> str:
        """Return the name of the user who logs in.

        Raises:
            AccessRefused: Any reason; the text is the same for all, so that nobody learns which names exist. Its note has the
                reason, for the log.
        """
        refused = AccessRefused(
            f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
        )
        try:
            name, password = sasl.parse(mechanism, response)
        except AMQPError as error:
            refused.add_note(str(error))
            raise refused from error
        expected = self._passwords.get(name)
        # Compared in any case, so that the time says nothing about the name.
        matches = hmac.compare_digest(password.encode(), expected if expected is not None else b"\0no such user")
        if expected is None or not matches:
            refused.add_note(f"user {name!r}: {'wrong password' if expected is not None else 'not known'}")
            raise refused
        if name == GUEST and not from_loopback:
            refused.add_note(f"user {name!r} may log in from this machine only")
            raise refused
        return name
