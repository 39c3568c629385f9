"""A session: one client's connection as the core knows it, with its channels and what is to be sent to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leveret.amqp.methods import basic
from leveret.amqp.methods import channel as channel_methods
from leveret.amqp.methods.base import Method
from leveret.broker.core.basic_methods import BASIC_METHODS
from leveret.broker.core.channel import Channel
from leveret.broker.core.effects import SEND, Effect
from leveret.broker.core.topology_methods import TOPOLOGY_METHODS
from leveret.errors import CommandInvalid, ReplyError

if TYPE_CHECKING:
    from leveret.broker.core.broker import Broker
    from leveret.broker.core.consumer import Consumer
    from leveret.broker.core.queue import Queue
    from leveret.broker.core.vhost import VirtualHost

__all__ = ["OUTBOX_BYTES_MAX", "Session"]

OUTBOX_BYTES_MAX: Final = 1 << 20
"""Deliveries gathered for one session before its consumers wait for the shell to write them."""

_METHODS: Final = {**TOPOLOGY_METHODS, **BASIC_METHODS}


class Session:
    """One client; the shell empties ``outbox`` and says when the client reads too slowly.

    ``awaited_batch``: the client has changed something durable, and the reply in the outbox may go out only when this
    journal batch is on disk; the shell sends nothing to this client and handles nothing more of it until then.
    """

    def __init__(self, broker: Broker, vhost: VirtualHost, user: str, *, takes_cancel: bool) -> None:
        self.broker = broker
        self.vhost = vhost
        self.user = user
        self.takes_cancel = takes_cancel
        self.channels: dict[int, Channel] = {}
        self.exclusive_queues: set[Queue] = set()
        self.outbox: list[Effect] = []
        self.outbox_bytes = 0
        self.is_output_due = False
        self.is_congested = False
        self.awaited_batch = 0

    # ------------------------------------------------------------------------------------------- commands

    def open_channel(self, number: int) -> None:
        """Make the state of a channel that the protocol engine has opened."""
        self.channels[number] = Channel(number, self, self.vhost, self.broker)

    def close_channel(self, number: int, now_s: float) -> None:
        """Requeue what the channel held and forget it; unknown numbers are ignored."""
        channel = self.channels.pop(number, None)
        if channel is not None:
            channel.close(now_s)

    def handle(self, number: int, method: Method, now_s: float) -> None:
        """Obey a method that is not on the hot path; replies go to the outbox.

        Raises:
            ReplyError: It cannot be obeyed; carries the failing method. The caller closes the channel or connection.
        """
        channel = self.channels.get(number)
        if channel is None:
            return
        obey = _METHODS.get(type(method))
        class_id, method_id = method.INDEX
        if obey is None:
            raise CommandInvalid("unimplemented method", class_id=class_id, method_id=method_id)
        try:
            obey(channel, method, now_s)
        except ReplyError as error:
            error.class_id, error.method_id = class_id, method_id
            raise

    def close(self, now_s: float) -> None:
        """End the session: requeue, cancel, delete its exclusive queues. Safe to call twice."""
        for number in list(self.channels):
            self.close_channel(number, now_s)
        for queue in list(self.exclusive_queues):
            self.vhost.delete_queue(queue)
        self.broker.forget_session(self)

    def resume_output(self) -> None:
        """Let the consumers stand in line again: the client reads."""
        self.is_congested = False
        for channel in self.channels.values():
            for consumer in channel.consumers.values():
                consumer.queue.rejoin(consumer)
                if len(consumer.queue.backlog):
                    self.broker.mark_due(consumer.queue)

    # -------------------------------------------------------------------------------------------- effects

    def emit(self, effect: Effect) -> None:
        """Add something to be sent."""
        self.outbox.append(effect)
        if not self.is_output_due:
            self.is_output_due = True
            self.broker.output_due.append(self)

    def note_output(self, size_bytes: int) -> None:
        """Count what a delivery added to the outbox; a full outbox makes the session congested."""
        self.outbox_bytes += size_bytes
        if self.outbox_bytes >= OUTBOX_BYTES_MAX:
            self.is_congested = True
        if not self.is_output_due:
            self.is_output_due = True
            self.broker.output_due.append(self)

    def reply(self, channel: Channel, method: Method) -> None:
        """Answer a method."""
        self.emit((SEND, channel.number, method, None, b""))

    def take_outbox(self) -> list[Effect]:
        """Return what is to be sent, and empty the outbox."""
        effects = self.outbox
        self.outbox = []
        self.outbox_bytes = 0
        self.is_output_due = False
        return effects

    def discard_output(self, number: int) -> None:
        """Drop what is to be sent on a channel: its client has closed it, and discards all but close-ok."""
        self.outbox = [effect for effect in self.outbox if effect[1] != number]

    def await_durable(self) -> None:
        """Hold the client until all that was recorded so far is on disk."""
        self.awaited_batch = self.broker.journal.last_batch_id

    def notify_cancel(self, consumer: Consumer) -> None:
        """Tell a client whose consumer has lost its queue, if it said that it wants to know.

        https://www.rabbitmq.com/docs/consumer-cancel
        """
        if self.takes_cancel:
            cancel = basic.Cancel(consumer_tag=consumer.tag, no_wait=True)
            self.emit((SEND, consumer.channel.number, cancel, None, b""))

    def close_ok(self, number: int) -> None:
        """Answer channel.close."""
        self.emit((SEND, number, channel_methods.CloseOk(), None, b""))
