"""Publish to an exchange of one's own, with properties, to whoever has bound a queue to it.

    python examples/advanced_publisher.py [URL]

Nobody need be there: a message that no queue is bound for is dropped, which is what an exchange is for. Ask for
``mandatory=True`` and publisher confirms (``channel.confirm_delivery()``) where that would be a loss.
"""

from __future__ import annotations

import logging
import sys

import pika
from pika import DeliveryMode
from pika.exchange_type import ExchangeType

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
EXCHANGE = "test_exchange"
MESSAGES = [
    ("standard_key", "queue:group"),
    ("group_key", "a message to group_key"),
    ("standard_key", "a message to standard_key"),
]


def main(url: str) -> None:
    """Declare the exchange and publish three messages."""
    logging.basicConfig(level=logging.INFO)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type=ExchangeType.direct, durable=True)
    # Transient: such a message is not written to disk, and does not outlive its broker even in a durable queue.
    properties = pika.BasicProperties(content_type="text/plain", delivery_mode=DeliveryMode.Transient)
    for routing_key, text in MESSAGES:
        channel.basic_publish(EXCHANGE, routing_key, text.encode(), properties)
        print(f"sent {text!r} with the key {routing_key!r}", flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:] or [DEFAULT_URL])
