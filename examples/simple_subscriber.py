"""Do the jobs of the queue ``hello``, until Ctrl-C.

    python examples/simple_subscriber.py [URL]

A message is done with as soon as it is sent here (``auto_ack``): a job that is running when this program dies is lost.
``reconnecting_consumer.py`` acknowledges when the work is done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
QUEUE = "hello"


def cpu_bound(param: str) -> int:
    """Keep a processor busy for a moment."""
    return sum(number * number for number in range(int(param) * 100_000))


# What a message may ask for. Looking names up in globals() would let any sender call any function of this program.
JOBS: Final[dict[str, Callable[[str], int]]] = {"cpu_bound": cpu_bound}


def work(
    _channel: BlockingChannel, _method: pika.spec.Basic.Deliver, _properties: pika.spec.BasicProperties, body: bytes
) -> None:
    """Do one job and tell about it."""
    job = json.loads(body)
    outcome = JOBS[job["task"]](job["param"])
    print(f"processed {job}: {outcome}", flush=True)


def main(url: str) -> None:
    """Wait for jobs."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(QUEUE)
    channel.basic_consume(QUEUE, on_message_callback=work, auto_ack=True)
    print(f"waiting for jobs in {QUEUE!r}; Ctrl-C ends this", flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()
        print("ended", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or [DEFAULT_URL])
