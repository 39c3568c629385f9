"""basic.*, confirm.* and channel.flow as one channel's requests, but for what is hot: see ``Channel``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from leveret.amqp.methods import basic, confirm, tx
from leveret.amqp.methods import channel as channel_methods
from leveret.amqp.methods.base import Method
from leveret.amqp.tables import decode_shortstr
from leveret.broker.core.arguments import consumer_priority
from leveret.broker.core.consumer import Consumer
from leveret.broker.core.effects import SEND
from leveret.broker.core.topology_methods import find_queue
from leveret.errors import AccessRefused, NotAllowed, NotImplementedByBroker

if TYPE_CHECKING:
    from leveret.broker.core.channel import Channel

__all__ = ["BASIC_METHODS"]

REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""The pseudo-queue of RabbitMQ's direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to)."""


def basic_qos(channel: Channel, method: basic.Qos, now_s: float) -> None:
    """Limit the unacknowledged deliveries: of each later consumer, or with ``global`` of the whole channel.

    Without ``global`` it also lifts the limit of the channel, as RabbitMQ does
    (https://www.rabbitmq.com/docs/consumer-prefetch).
    """
    if method.prefetch_size:
        raise NotImplementedByBroker(f"prefetch_size!=0 ({method.prefetch_size})")
    if method.global_:
        channel.prefetch_shared = method.prefetch_count
    else:
        channel.prefetch_count = method.prefetch_count
        channel.prefetch_shared = 0
    for consumer in channel.consumers.values():
        consumer.queue.rejoin(consumer)
        if len(consumer.queue.backlog):
            channel.broker.mark_due(consumer.queue)
    channel.session.reply(channel, basic.QosOk())


def basic_consume(channel: Channel, method: basic.Consume, now_s: float) -> None:
    """Start a consumer; consume-ok goes out before its first delivery."""
    if method.queue == REPLY_TO:
        raise NotImplementedByBroker("direct reply-to is not available yet; declare an exclusive queue for the replies")
    queue = find_queue(channel, method.queue)
    tag = method.consumer_tag or f"amq.ctag-{channel.broker.new_name_suffix()}"
    if tag in channel.consumers:
        raise NotAllowed(f"attempt to reuse consumer tag '{tag}'")
    if queue.is_consumed_exclusively or (method.exclusive and queue.consumers):
        raise AccessRefused(f"queue '{queue.name}' in vhost '{channel.vhost.name}' in exclusive use")
    consumer = Consumer(
        tag,
        channel,
        queue,
        no_ack=method.no_ack,
        exclusive=method.exclusive,
        prefetch_count=channel.prefetch_count,
        priority=consumer_priority(method.arguments, queue=queue.name, vhost=channel.vhost.name),
    )
    channel.consumers[tag] = consumer
    queue.add_consumer(consumer)
    if not method.no_wait:
        channel.session.reply(channel, basic.ConsumeOk(consumer_tag=tag))
    if len(queue.backlog):
        channel.broker.mark_due(queue)


def basic_cancel(channel: Channel, method: basic.Cancel, now_s: float) -> None:
    """End a consumer; what it holds stays with the channel. An unknown tag is answered alike."""
    consumer = channel.consumers.get(method.consumer_tag)
    if consumer is not None:
        channel.vhost.remove_consumer(consumer, now_s)
    if not method.no_wait:
        channel.session.reply(channel, basic.CancelOk(consumer_tag=method.consumer_tag))


def basic_get(channel: Channel, method: basic.Get, now_s: float) -> None:
    """Fetch one message."""
    queue = find_queue(channel, method.queue)
    queue.last_used_s = now_s
    channel.vhost.expire_heads(queue, now_s)
    if not len(queue.backlog):
        channel.session.reply(channel, basic.GetEmpty())
        return
    entry = queue.backlog.pop()
    tag = channel.next_delivery_tag
    channel.next_delivery_tag = tag + 1
    if method.no_ack:
        channel.vhost.discard(queue, entry)
    else:
        channel.unacked[tag] = (queue, entry, None)
        queue.unacked_count += 1
    message = entry.message
    exchange_name, offset = decode_shortstr(message.route, 0)
    routing_key, _ = decode_shortstr(message.route, offset)
    found = basic.GetOk(
        delivery_tag=tag,
        redelivered=entry.redelivered,
        exchange=exchange_name,
        routing_key=routing_key,
        message_count=len(queue.backlog),
    )
    channel.session.emit((SEND, channel.number, found, message.header, message.body))
    channel.session.note_output(message.size_bytes)
    channel.broker.watch(queue)


def basic_recover(channel: Channel, method: basic.Recover, now_s: float) -> None:
    """Requeue everything that waits for an acknowledgement."""
    _recover(channel, method.requeue, now_s)
    channel.session.reply(channel, basic.RecoverOk())


def basic_recover_async(channel: Channel, method: basic.RecoverAsync, now_s: float) -> None:
    """Requeue everything that waits for an acknowledgement, without an answer."""
    _recover(channel, method.requeue, now_s)


def _recover(channel: Channel, requeue: bool, now_s: float) -> None:
    if not requeue:
        raise NotImplementedByBroker("requeue=false")
    channel.requeue_all(now_s)


def confirm_select(channel: Channel, method: confirm.Select, now_s: float) -> None:
    """Count the publishes of this channel from 1 and confirm them (https://www.rabbitmq.com/docs/confirms)."""
    channel.confirming = True
    if not method.no_wait:
        channel.session.reply(channel, confirm.SelectOk())


def refuse_transaction(channel: Channel, method: tx.Select | tx.Commit | tx.Rollback, now_s: float) -> None:
    """Say that there are no transactions; publisher confirms serve nearly all who ask for one."""
    raise NotImplementedByBroker("transactions are not available yet; use publisher confirms (confirm.select)")


def channel_flow(channel: Channel, method: channel_methods.Flow, now_s: float) -> None:
    """Accept ``active=true``, which changes nothing; RabbitMQ has no pause either."""
    if not method.active:
        raise NotImplementedByBroker("active=false")
    channel.session.reply(channel, channel_methods.FlowOk(active=True))


# Each function takes its own method class, which no common type of the values could say: the key is the proof.
BASIC_METHODS: Final[Mapping[type[Method], Callable[[Channel, Any, float], None]]] = {
    basic.Qos: basic_qos,
    basic.Consume: basic_consume,
    basic.Cancel: basic_cancel,
    basic.Get: basic_get,
    basic.Recover: basic_recover,
    basic.RecoverAsync: basic_recover_async,
    confirm.Select: confirm_select,
    tx.Select: refuse_transaction,
    tx.Commit: refuse_transaction,
    tx.Rollback: refuse_transaction,
    channel_methods.Flow: channel_flow,
}
