"""Measure the codec on the header of a task message as Celery sends it: ``python tests/benchmarks/bench_codec.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from timeit import repeat

from leveret.amqp.methods import basic, queue
from leveret.amqp.properties import BasicProperties, decode_header, delivery_facts, encode_header
from leveret.amqp.tables import Table, decode_table, encode_table

ROUNDS = 7
CALLS = 20_000

HEADERS: Table = {
    "lang": "py",
    "task": "proj.tasks.add",
    "id": "f2b8a3d0-9b1c-4f0e-8a52-0d6d3a1b7c11",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "f2b8a3d0-9b1c-4f0e-8a52-0d6d3a1b7c11",
    "parent_id": None,
    "argsrepr": "(1, 2)",
    "kwargsrepr": "{}",
    "origin": "gen4711@host.example",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
PROPERTIES = BasicProperties(
    content_type="application/json",
    content_encoding="utf-8",
    headers=HEADERS,
    delivery_mode=2,
    priority=0,
    correlation_id="f2b8a3d0-9b1c-4f0e-8a52-0d6d3a1b7c11",
    reply_to="3a1d1d8e-5a0e-3a51-9a52-4a6f0b1d9c77",
)


def measure(name: str, call: Callable[[], object]) -> None:
    """Print the best time of one call."""
    best_s = min(repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS
    print(f"{name:<28}{best_s * 1e6:8.2f} µs")


def main() -> None:
    """Run all measurements."""
    header = encode_header(21, PROPERTIES)
    expiring = encode_header(21, replace(PROPERTIES, expiration="60000"))
    table = encode_table(HEADERS)
    declare = queue.Declare("celery", durable=True, arguments={"x-max-priority": 10})
    declared = declare.encode()
    deliver = basic.Deliver("ctag1.0123456789abcdef", 4711, False, "", "celery")
    delivered = deliver.encode()
    measure("delivery_facts", lambda: delivery_facts(header))
    measure("delivery_facts, expiring", lambda: delivery_facts(expiring))
    measure("decode_header", lambda: decode_header(header))
    measure("encode_header", lambda: encode_header(21, PROPERTIES))
    measure("decode_table, 19 fields", lambda: decode_table(table, 0))
    measure("encode_table, 19 fields", lambda: encode_table(HEADERS))
    measure("queue.declare encode", declare.encode)
    measure("queue.declare decode", lambda: queue.Declare.decode(declared, 4))
    measure("basic.deliver encode", deliver.encode)
    measure("basic.deliver decode", lambda: basic.Deliver.decode(delivered, 4))


if __name__ == "__main__":
    main()
