"""exchange.* and queue.* as one channel's requests.

What a reply says to be there, or gone, and is durable, is so on disk before the reply goes out
(``Session.await_durable``); also when it was somebody else who has just made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from leveret.amqp.methods import access, exchange, queue
from leveret.amqp.methods.base import Method
from leveret.broker.core.queue import Queue
from leveret.errors import AccessRefused, NotFound, PreconditionFailed

if TYPE_CHECKING:
    from leveret.broker.core.channel import Channel

__all__ = ["TOPOLOGY_METHODS"]

_NO_LINE_BREAKS: Final = {ord("\r"): None, ord("\n"): None}


def _name(text: str) -> str:
    """Strip line breaks, as RabbitMQ does with every name that is declared or used."""
    return text.translate(_NO_LINE_BREAKS)


def _refuse_default_exchange(name: str) -> None:
    if not name:
        raise AccessRefused("operation not permitted on the default exchange")


def _queue_name(channel: Channel, name: str) -> str:
    """Return the queue that is meant; an empty name is the last one that the channel declared (AMQP 0-9-1, queue.bind)."""
    if name:
        return _name(name)
    if not channel.last_queue_name:
        raise NotFound("no previously declared queue")
    return channel.last_queue_name


def find_queue(channel: Channel, name: str) -> Queue:
    """Return the queue that is meant.

    Raises:
        NotFound: There is none.
        ResourceLocked: It belongs to another connection.
    """
    return channel.vhost.queue(_queue_name(channel, name), channel.session)


def _reply(channel: Channel, method: Method, *, no_wait: bool, durable: bool) -> None:
    if durable:
        channel.session.await_durable()
    if not no_wait:
        channel.session.reply(channel, method)


# ---------------------------------------------------------------------------------------------- exchanges


def exchange_declare(channel: Channel, method: exchange.Declare, now_s: float) -> None:
    """Create or check an exchange; passive: only look."""
    name = _name(method.exchange)
    durable = False
    _refuse_default_exchange(name)
    if method.passive:
        channel.vhost.exchange(name)
    else:
        durable = channel.vhost.declare_exchange(
            name,
            method.type,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments,
        )
    _reply(channel, exchange.DeclareOk(), no_wait=method.no_wait, durable=durable)


def exchange_delete(channel: Channel, method: exchange.Delete, now_s: float) -> None:
    """Delete an exchange; one that does not exist is as good as deleted."""
    name = _name(method.exchange)
    _refuse_default_exchange(name)
    durable = channel.vhost.delete_exchange(name, if_unused=method.if_unused)
    _reply(channel, exchange.DeleteOk(), no_wait=method.no_wait, durable=durable)


def exchange_bind(channel: Channel, method: exchange.Bind, now_s: float) -> None:
    """Bind an exchange to an exchange (https://www.rabbitmq.com/docs/e2e)."""
    _refuse_default_exchange(method.source)
    _refuse_default_exchange(method.destination)
    source, destination = channel.vhost.exchange(_name(method.source)), channel.vhost.exchange(_name(method.destination))
    durable = channel.vhost.bind(source, destination, method.routing_key, method.arguments)
    _reply(channel, exchange.BindOk(), no_wait=method.no_wait, durable=durable)


def exchange_unbind(channel: Channel, method: exchange.Unbind, now_s: float) -> None:
    """Remove a binding between exchanges; one that is not there, or could not be, is as good as removed."""
    _refuse_default_exchange(method.source)
    _refuse_default_exchange(method.destination)
    exchanges = channel.vhost.exchanges
    source, destination = exchanges.get(_name(method.source)), exchanges.get(_name(method.destination))
    durable = False
    if source is not None and destination is not None:
        durable = channel.vhost.unbind(source, destination, method.routing_key, method.arguments)
    _reply(channel, exchange.UnbindOk(), no_wait=method.no_wait, durable=durable)


# ------------------------------------------------------------------------------------------------- queues


def queue_declare(channel: Channel, method: queue.Declare, now_s: float) -> None:
    """Create or check a queue; passive: only look. An empty name asks for one of the broker's making."""
    session, vhost = channel.session, channel.vhost
    name = _name(method.queue)
    durable = False
    if method.passive:
        found = find_queue(channel, name)
        found.last_used_s = now_s
    else:
        if not name:
            name = f"amq.gen-{channel.broker.new_name_suffix()}"
        elif name.startswith("amq.") and name not in vhost.queues:
            raise AccessRefused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        found = vhost.declare_queue(
            name,
            session,
            durable=method.durable,
            exclusive=method.exclusive,
            auto_delete=method.auto_delete,
            arguments=method.arguments,
            now_s=now_s,
        )
        durable = found.durable
    channel.last_queue_name = found.name
    declared = queue.DeclareOk(queue=found.name, message_count=len(found.backlog), consumer_count=len(found.consumers))
    _reply(channel, declared, no_wait=method.no_wait, durable=durable)


def _binding_key(method: queue.Bind | queue.Unbind, name: str) -> str:
    """Return the key that is meant: with queue and key both empty, the name of the last declared queue."""
    return name if not method.queue and not method.routing_key else method.routing_key


def queue_bind(channel: Channel, method: queue.Bind, now_s: float) -> None:
    """Bind a queue to an exchange."""
    _refuse_default_exchange(method.exchange)
    bound = find_queue(channel, method.queue)
    source = channel.vhost.exchange(_name(method.exchange))
    durable = channel.vhost.bind(source, bound, _binding_key(method, bound.name), method.arguments)
    _reply(channel, queue.BindOk(), no_wait=method.no_wait, durable=durable)


def queue_unbind(channel: Channel, method: queue.Unbind, now_s: float) -> None:
    """Remove a binding of a queue; one that is not there, or could not be, is as good as removed."""
    _refuse_default_exchange(method.exchange)
    name, source = _queue_name(channel, method.queue), channel.vhost.exchanges.get(_name(method.exchange))
    durable = False
    if source is not None and name in channel.vhost.queues:
        bound = channel.vhost.queue(name, channel.session)
        durable = channel.vhost.unbind(source, bound, _binding_key(method, name), method.arguments)
    _reply(channel, queue.UnbindOk(), no_wait=False, durable=durable)


def queue_purge(channel: Channel, method: queue.Purge, now_s: float) -> None:
    """Drop the ready messages; those that wait for an acknowledgement stay."""
    purged = find_queue(channel, method.queue)
    count = channel.vhost.purge(purged)
    _reply(channel, queue.PurgeOk(message_count=count), no_wait=method.no_wait, durable=bool(count) and purged.durable)


def queue_delete(channel: Channel, method: queue.Delete, now_s: float) -> None:
    """Delete a queue; one that does not exist is as good as deleted."""
    name = _queue_name(channel, method.queue)
    found = channel.vhost.queue(name, channel.session) if name in channel.vhost.queues else None
    if found is not None and method.if_unused and found.consumers:
        raise PreconditionFailed(f"queue '{name}' in vhost '{channel.vhost.name}' in use")
    if found is not None and method.if_empty and len(found.backlog):
        raise PreconditionFailed(f"queue '{name}' in vhost '{channel.vhost.name}' not empty")
    # The reply stands before what the deletion tells the queue's consumers, as in RabbitMQ.
    count = len(found.backlog) if found is not None else 0
    _reply(channel, queue.DeleteOk(message_count=count), no_wait=method.no_wait, durable=False)
    if found is not None:
        channel.vhost.delete_queue(found)
        if found.durable:
            channel.session.await_durable()


def access_request(channel: Channel, method: access.Request, now_s: float) -> None:
    """Answer the ticket request of clients of AMQP 0-8; tickets mean nothing here, as in RabbitMQ."""
    channel.session.reply(channel, access.RequestOk())


# Each function takes its own method class, which no common type of the values could say: the key is the proof.
TOPOLOGY_METHODS: Final[Mapping[type[Method], Callable[[Channel, Any, float], None]]] = {
    exchange.Declare: exchange_declare,
    exchange.Delete: exchange_delete,
    exchange.Bind: exchange_bind,
    exchange.Unbind: exchange_unbind,
    queue.Declare: queue_declare,
    queue.Bind: queue_bind,
    queue.Unbind: queue_unbind,
    queue.Purge: queue_purge,
    queue.Delete: queue_delete,
    access.Request: access_request,
}
