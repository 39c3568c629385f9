"""A channel of the event loop's client: calls, consumers, confirmed publishing, settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final, Protocol

from leveret.amqp.constants import REPLY_SUCCESS
from leveret.amqp.events import MULTIPLE_BIT, NACK_BIT, AckEvent, DeliverEvent
from leveret.amqp.methods import Method, basic, channel, confirm
from leveret.amqp.tables import Table, decode_shortstr, encode_shortstr
from leveret.amqp.topology import Queue
from leveret.amqp.uris import AMQPURL
from leveret.client.declarations import declarations
from leveret.client.failures import advise, culprit, nacked, unconfirmed, unroutable
from leveret.client.session import Calls, Confirms
from leveret.client.settlements import Settlements
from leveret.errors import BrokerUnavailable, LeveretError, LocalProtocolError, PreconditionFailed, reply_error

__all__ = ["CALL_TIMEOUT_S", "AsyncChannel", "Delivery"]

CALL_TIMEOUT_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 2.0


class Delivery:
    """A message that was delivered, its header and body as they came."""

    __slots__ = ("body", "delivery_tag", "generation", "header", "redelivered", "route")

    def __init__(self, generation: int, delivery_tag: int, redelivered: bool, route: bytes, header: bytes, body: bytes) -> None:
        self.generation = generation
        """The number its connection was given: a tag means nothing on any other."""
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.route = route
        """The exchange and the routing key, two short strings as on the wire."""
        self.header = header
        self.body = body

    @property
    def exchange(self) -> str:
        """Return the exchange it was published to."""
        return decode_shortstr(self.route, 0)[0]

    @property
    def routing_key(self) -> str:
        """Return the routing key it was published with."""
        return decode_shortstr(self.route, 1 + self.route[0])[0]


class _Client(Protocol):
    """What a channel needs of its connection."""

    url: AMQPURL

    @property
    def is_open(self) -> bool:
        """Tell whether it can be used."""
        ...

    def send(self, number: int, method: Method) -> None:
        """Queue a method."""
        ...

    def publish_frames(self, number: int, route: bytes, bits: int, header: bytes, body: bytes) -> None:
        """Queue a message."""
        ...

    def has_settlements(self, one: AsyncChannel) -> None:
        """Note that the channel has acknowledgements to write."""
        ...

    def forget_channel(self, number: int) -> None:
        """Note that the channel is closed."""
        ...


class AsyncChannel:
    """A channel of an ``AsyncClient``. ``on_close`` and ``on_cancel`` are to be set by the owner.

    Once it is closed, by whichever end, its deliveries belong to the broker again: settling them does nothing.
    """

    def __init__(self, client: _Client, number: int) -> None:
        self.number = number
        self.is_open = True
        self.on_close: Callable[[LeveretError], None] | None = None
        """Called once when the broker has closed the channel, or the connection was lost; not after ``close``."""
        self.on_cancel: Callable[[str], None] | None = None
        """Called with the tag of a consumer that the broker has cancelled: its queue was deleted, or its time was over."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._calls: Calls[asyncio.Future[Method] | None] = Calls()  # None: only the last of several calls is awaited
        self._confirms: Confirms[asyncio.Future[None]] | None = None
        self._consumers: dict[str, tuple[Callable[[Delivery], None], bool]] = {}
        self._tags = count(1)
        self._settlements = Settlements(number)
        self._has_settlements = False
        self._error: LeveretError = BrokerUnavailable(f"channel {number} to {client.url.safe} has been closed")

    # ------------------------------------------------------------------------------------------ calls

    async def call(self, method: Method, timeout_s: float = CALL_TIMEOUT_S) -> Method:
        """Send a synchronous method and return its reply.

        Raises:
            ReplyError: the broker closed the channel or the connection over it.
            BrokerUnavailable: the connection was lost, or no answer came in time.

        """
        reply = await self._call_all([method], timeout_s)
        assert reply is not None, "one call has one reply"
        return reply

    async def declare(self, queues: Iterable[Queue], timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Declare queues with their exchanges and bindings; raises as ``call``."""
        try:
            await self._call_all(declarations(queues), timeout_s)
        except PreconditionFailed as error:
            advise(error)
            raise

    async def confirm_select(self) -> None:
        """Have every message published from now on confirmed; raises as ``call``."""
        if self._confirms is None:
            await self.call(confirm.Select())
            self._confirms = Confirms()

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch_count: int,
        arguments: Table | None = None,
        no_ack: bool = False,
    ) -> str:
        """Consume from a queue and return the consumer's tag; at most ``prefetch_count`` deliveries are unsettled at a time.

        Deliveries come by direct call, from within the socket's callback; the first may come before this returns. Raises as
        ``call``.
        """
        tag = f"leveret.{self.number}.{next(self._tags)}"
        self._consumers[tag] = (on_delivery, no_ack)
        try:
            # Per consumer, and fixed by the last basic.qos before basic.consume (RabbitMQ's meaning of global=false).
            qos = basic.Qos(prefetch_count=prefetch_count, global_=False)
            await self._call_all([qos, basic.Consume(queue, tag, no_ack=no_ack, arguments=arguments or {})], CALL_TIMEOUT_S)
        except BaseException:
            self._consumers.pop(tag, None)
            raise
        return tag

    async def cancel(self, tag: str) -> None:
        """End a consumer; what it was given stays unsettled and may be settled. Raises as ``call``."""
        await self.call(basic.Cancel(tag))
        self._consumers.pop(tag, None)

    async def close(self) -> None:
        """Close the channel; what is unsettled goes back to its queues. Safe to call twice."""
        if self.is_open:
            self.on_close = None
            await self._call_all([channel.Close(REPLY_SUCCESS, "Goodbye", 0, 0)], _CLOSE_TIMEOUT_S)

    async def _call_all(self, methods: Sequence[Method], timeout_s: float) -> Method | None:
        """Send methods at once and return the reply to the last; what fails one of them fails those after it, too."""
        if not self.is_open:
            raise self._error
        last: asyncio.Future[Method] = self._loop.create_future()
        for number, method in enumerate(methods, start=1):
            self._client.send(self.number, method)
            self._calls.add(method, last if number == len(methods) else None)
            if isinstance(method, channel.Close):
                self.is_open = False  # no acknowledgement and no message may follow it
        if not methods:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                return await last
        except TimeoutError as error:
            names = ", ".join(method.NAME for method in methods)
            raise BrokerUnavailable(f"{self._client.url.safe} did not answer {names} within {timeout_s:g} s") from error

    # ------------------------------------------------------------------------------------------ publishing

    def publish(
        self, exchange: str, routing_key: str, header: bytes, body: bytes, *, mandatory: bool = False
    ) -> asyncio.Future[None]:
        """Send a message and return what becomes done when the broker has taken it, ``confirm_select`` being done.

        The future raises ``Unroutable``, ``PublishNacked``, ``PublishUnconfirmed`` (the channel or the connection went first)
        or the reply code that closed the channel over this message.

        Raises:
            LocalProtocolError: the channel has no publisher confirms.

        """
        future: asyncio.Future[None] = self._loop.create_future()
        if not self.is_open or not self._client.is_open:
            future.set_exception(self._error)
            return future
        if self._confirms is None:
            raise LocalProtocolError("confirm_select must come before publish: a message without a confirm may be lost")
        route = encode_shortstr(exchange, "exchange") + encode_shortstr(routing_key, "routing key")
        self._confirms.add((future, exchange, routing_key, header, body))
        self._client.publish_frames(self.number, route, 1 if mandatory else 0, header, body)
        return future

    # ------------------------------------------------------------------------------------------ settling

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, or with ``multiple`` all up to it; written at the end of this turn of the loop."""
        if multiple:
            self._settlements.ack_up_to(delivery_tag)
        else:
            self._settlements.ack(delivery_tag)
        if not self._has_settlements:
            self._note_settlements()

    def nack(self, delivery_tag: int, *, requeue: bool, multiple: bool = False) -> None:
        """Refuse a delivery, or all up to it: back to its queue, or dead-lettered; written as ``ack`` is."""
        self._settlements.nack(delivery_tag, requeue=requeue, multiple=multiple)
        if not self._has_settlements:
            self._note_settlements()

    def _note_settlements(self) -> None:
        if self.is_open:
            self._has_settlements = True
            self._client.has_settlements(self)

    # ------------------------------------------------------------------------------------------ from the client

    def take_settlements(self) -> bytes:
        """Return the frames of what was settled since the last time."""
        self._has_settlements = False
        return self._settlements.take_frames() if self.is_open else b""

    def on_delivery(self, event: DeliverEvent, generation: int) -> None:
        """Hand a delivery to its consumer."""
        _, _, tag, delivery_tag, redelivered, route, header, body = event
        consumer = self._consumers.get(tag)
        if consumer is None:
            # It came while its consumer was being given up.
            self.nack(delivery_tag, requeue=True)
            return
        on_delivery, no_ack = consumer
        if no_ack:
            self._settlements.needs_none(delivery_tag)
        on_delivery(Delivery(generation, delivery_tag, redelivered, route, header, body))

    def on_confirm(self, event: AckEvent) -> None:
        """Settle the messages that basic.ack or basic.nack names."""
        if self._confirms is None:
            return
        _, _, delivery_tag, kind = event
        for publication in self._confirms.settle(delivery_tag, multiple=bool(kind & MULTIPLE_BIT)):
            future = publication[0]
            if not future.done():
                if kind & NACK_BIT:
                    future.set_exception(nacked(publication, self._client.url.safe))
                else:
                    future.set_result(None)

    def on_method(self, method: Method, header: bytes, body: bytes) -> None:
        """Take a reply, a returned message, or what the broker does to consumers and to the channel."""
        match method:
            case basic.Return():
                self._on_return(method, header, body)
            case basic.Cancel():
                if self._consumers.pop(method.consumer_tag, None) is not None and self.on_cancel is not None:
                    self.on_cancel(method.consumer_tag)
            case channel.Close():
                self.on_closed(
                    reply_error(
                        method.reply_code, method.reply_text, class_id=method.class_id, method_id=method.method_id, soft=True
                    )
                )
            case channel.CloseOk():
                self.on_closed(self._error, reply=method)
            case channel.Flow():
                self._client.send(self.number, channel.FlowOk(method.active))
            case _:
                future = self._calls.answer(method)
                if future is not None and not future.done():
                    future.set_result(method)

    def _on_return(self, method: basic.Return, header: bytes, body: bytes) -> None:
        returned = None
        if self._confirms is not None:
            returned = self._confirms.take_returned(method.exchange, method.routing_key, header, body)
        if returned is not None and not returned[0].done():
            returned[0].set_exception(unroutable(returned, method, self._client.url.safe))

    def on_closed(self, error: LeveretError, *, reply: channel.CloseOk | None = None) -> None:
        """Fail all that is pending: nothing will come any more on this channel."""
        self.is_open = False
        self._error = error
        self._consumers.clear()
        self._client.forget_channel(self.number)
        calls = [future for future in self._calls.clear() if future is not None and not future.done()]
        if reply is not None and calls:
            calls.pop().set_result(reply)
        for call in calls:
            call.set_exception(error)
        confirms, self._confirms = self._confirms, None
        publications = [one for one in confirms.clear() if not one[0].done()] if confirms is not None else []
        to_blame = culprit(publications, error)
        for publication in publications:
            failure = error if publication is to_blame else unconfirmed(publication, error, self._client.url.safe)
            publication[0].set_exception(failure)
        if self.on_close is not None:
            self.on_close(error)
