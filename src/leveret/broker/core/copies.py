"""CC and BCC: routing keys that the sender adds to a message's own, in headers of that name.

https://www.rabbitmq.com/docs/sender-selected
"""

from __future__ import annotations

from typing import Final

from leveret.amqp.properties import body_size, decode_header, encode_header
from leveret.amqp.tables import Table
from leveret.broker.core.arguments import field_type
from leveret.errors import PreconditionFailed

__all__ = ["CC", "MARK", "added_routing_keys", "without_bcc"]

CC: Final = "CC"
BCC: Final = "BCC"
MARK: Final = b"CC"
"""A content header without these bytes adds no routing keys; one with them may."""


def added_routing_keys(headers: Table) -> list[str]:
    """Return the keys that CC and BCC add; what is no text in these arrays is passed over, as by RabbitMQ.

    Raises:
        PreconditionFailed: One of them is not an array.
    """
    keys: list[str] = []
    for name in (CC, BCC):
        value = headers.get(name, [])
        if not isinstance(value, list):
            why = f'{{unacceptable_type_in_header,"{name}",{field_type(value)}}}'
            raise PreconditionFailed(f"invalid message: {why}")
        keys += [key for key in value if isinstance(key, str)]
    return keys


def without_bcc(header: bytes) -> bytes:
    """Return a content header without BCC, which no receiver sees."""
    _, properties = decode_header(header)
    if properties.headers is None or BCC not in properties.headers:
        return header
    del properties.headers[BCC]
    return encode_header(body_size(header), properties)
