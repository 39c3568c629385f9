"""What dead-lettering does to a message's header: the ``x-death`` table and the properties around it.

Format of https://www.rabbitmq.com/docs/dlx#effects: ``x-death`` is an array of tables, newest first, one for each pair
of queue and reason, with the keys count, reason, queue, time, exchange, routing-keys and, where the message had one,
original-expiration.
"""

from __future__ import annotations

from datetime import UTC, datetime

from leveret.amqp.properties import BasicProperties, body_size, decode_header, delivery_facts, encode_header
from leveret.amqp.tables import FieldValue, Long, Table
from leveret.broker.core.copies import CC, added_routing_keys
from leveret.errors import AMQPError

__all__ = ["dead_lettered_header", "died_in"]


def dead_lettered_header(
    header: bytes, *, queue: str, reason: str, exchange: str, routing_key: str, keeps_cc: bool, now_s: float
) -> tuple[bytes, list[Table]]:
    """Return the header of the moved message and its deaths, newest first.

    ``keeps_cc``: the message goes on under its old routing keys; a queue's own dead-letter key replaces them all.
    ``expiration`` is removed, so that the message does not expire again at once, and kept as ``original-expiration``.
    """
    properties = _properties(header)
    headers: Table = dict(properties.headers or {})
    copies = added_routing_keys(headers) if CC in headers else []
    if not keeps_cc:
        headers.pop(CC, None)
    deaths = _deaths(headers)
    death = next((death for death in deaths if death.get("queue") == queue and death.get("reason") == reason), None)
    if death is None:
        routing_keys: list[FieldValue] = [routing_key, *copies]
        death = {
            "count": Long(0),
            "reason": reason,
            "queue": queue,
            "time": datetime.fromtimestamp(int(now_s), UTC),
            "exchange": exchange,
            "routing-keys": routing_keys,
        }
        if properties.expiration is not None:
            death["original-expiration"] = properties.expiration
    else:
        deaths.remove(death)
    count = death.get("count")
    death["count"] = Long((count if isinstance(count, int) else 0) + 1)
    deaths.insert(0, death)
    x_death: list[FieldValue] = list(deaths)
    headers["x-death"] = x_death
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-exchange", exchange)
    # From RabbitMQ 3.13.
    headers["x-last-death-queue"] = queue
    headers["x-last-death-reason"] = reason
    headers["x-last-death-exchange"] = exchange
    properties.headers = headers
    properties.expiration = None
    return encode_header(body_size(header), properties), deaths


def died_in(queue: str, deaths: list[Table]) -> bool:
    """Tell whether a message that is going to ``queue`` goes round in a circle with no rejection in it.

    The newest deaths back to the one in that queue are the circle; a rejection in it means that a consumer had a
    say, so that the circle is meant (https://www.rabbitmq.com/docs/dlx#cycles).
    """
    for death in deaths:
        if death.get("reason") == "rejected":
            return False
        if death.get("queue") == queue:
            return True
    return False


def _properties(header: bytes) -> BasicProperties:
    """Decode the properties; of a header whose table nobody can read, keep what the broker itself goes by."""
    try:
        return decode_header(header)[1]
    except AMQPError:
        delivery_mode, priority, expiration = delivery_facts(header)
        return BasicProperties(delivery_mode=delivery_mode, priority=priority, expiration=expiration)


def _deaths(headers: Table) -> list[Table]:
    """Return the deaths a message carries; what is not in the format is left out, as a client may have sent anything."""
    found = headers.get("x-death")
    if not isinstance(found, list):
        return []
    return [
        # Decoding has lost that the count is a 64-bit integer, whatever its value.
        {name: Long(value) if name == "count" and type(value) is int else value for name, value in death.items()}
        for death in found
        if isinstance(death, dict)
    ]
