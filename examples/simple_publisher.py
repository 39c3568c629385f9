"""Put one job into the queue ``hello``: a name of a function and its parameter, as JSON.

    python examples/simple_publisher.py [URL]

A plain AMQP 0-9-1 program on pika: it runs on ``leveret broker --port 5672`` and on RabbitMQ alike.
``simple_subscriber.py`` does what it asks for.
"""

from __future__ import annotations

import json
import sys

import pika

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
QUEUE = "hello"


def main(url: str) -> None:
    """Send one job and hang up."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    # Whoever comes first declares the queue; the second declaration of the same queue changes nothing.
    channel.queue_declare(QUEUE)
    job = {"task": "cpu_bound", "param": "1"}
    # The default exchange, the one without a name, routes to the queue that is named like the routing key.
    channel.basic_publish(exchange="", routing_key=QUEUE, body=json.dumps(job).encode())
    print(f"sent {job} to {QUEUE!r}", flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:] or [DEFAULT_URL])
