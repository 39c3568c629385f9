"""The methods that declare queues with all they need: their exchanges before them, their bindings after."""

from __future__ import annotations

from collections.abc import Iterable

from leveret.amqp.methods import Method, exchange, queue
from leveret.amqp.topology import Exchange, Queue

__all__ = ["declarations"]


def declarations(queues: Iterable[Queue]) -> list[Method]:
    """Return the calls in an order the broker accepts, each exchange once; the default exchange is never declared."""
    methods: list[Method] = []
    declared: set[Exchange] = set()
    for one in queues:
        exchanges = [one.exchange, *(binding.exchange for binding in one.bindings)]
        for each in exchanges:
            if not each.is_default and each not in declared:
                declared.add(each)
                methods.append(_declare_exchange(each))
        methods.append(
            queue.Declare(
                one.name,
                durable=one.durable,
                exclusive=one.exclusive,
                auto_delete=one.auto_delete,
                arguments=dict(one.queue_arguments),
            )
        )
        for binding in one.all_bindings:
            methods.append(queue.Bind(one.name, binding.exchange.name, binding.routing_key, arguments=dict(binding.arguments)))
    return methods


def _declare_exchange(one: Exchange) -> exchange.Declare:
    return exchange.Declare(one.name, one.type, durable=one.durable, auto_delete=one.auto_delete, arguments=dict(one.arguments))
