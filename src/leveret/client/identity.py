"""What a client says of itself when it connects; RabbitMQ shows it beside the connection."""

from __future__ import annotations

import sys
from typing import Final

from leveret.amqp.tables import Table

__all__ = ["client_properties"]

_PYTHON: Final = f"{sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))}"


def client_properties(connection_name: str) -> Table:
    """Return the properties for connection.start-ok; the engine adds the capabilities."""
    return {"product": "Leveret", "platform": _PYTHON, "connection_name": connection_name}
