"""One AMQP connection that any number of threads use at once: its socket, its channels, and the calls made on them.

What has no caller waiting for it (deliveries, confirms, returns, a channel or the connection closed by the broker) goes to
the ``Listener``. Everything but ``open`` and ``abandon`` happens under the link's lock, which only waiting lets go of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

from leveret.amqp.connection import CLOSED, METHOD, Connection, Event
from leveret.amqp.methods import Method, basic, channel
from leveret.amqp.tables import Table
from leveret.amqp.uris import AMQPURL
from leveret.client import sockets
from leveret.client.deadline import Deadline
from leveret.client.recovery import reason
from leveret.client.session import Calls
from leveret.client.turns import Turns, Waiter
from leveret.clock import Clock
from leveret.errors import (
    AMQPError,
    BrokerUnavailable,
    ConnectionForced,
    LeveretError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyError,
    reply_error,
)

__all__ = ["Link", "Listener"]


class Listener(Protocol):
    """Who is told what comes from the broker unasked; called under the lock, and must not wait."""

    def on_event(self, event: Event) -> None:
        """Take a delivery, a publisher confirm, or a method that answers no call."""
        ...

    def on_channel_closed(self, number: int, error: ReplyError) -> None:
        """Learn that the broker has closed a channel; calls pending on it have failed already."""
        ...

    def on_lost(self, error: LeveretError) -> None:
        """Learn that the connection is over, for whatever reason; pending calls have failed already."""
        ...


class _Whole:
    """An interruption (Ctrl-C) inside it costs the connection: the books would no longer agree with what the broker got."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._link.lose(self._link.lost("interrupted while writing"))


class Link:
    """A connection to one broker, from its opening to its end; it is not opened again."""

    def __init__(self, url: AMQPURL, transport: sockets.Transport, engine: Connection, clock: Clock) -> None:
        self.url = url
        self.is_open = True
        self.reads = 0
        """How often something came from the broker: unchanged means silence."""
        self._listener: Listener | None = None
        self._transport = transport
        self._engine = engine
        self._clock = clock
        self._turns = Turns(transport.wait, self._after_wait)
        self._calls: dict[int, Calls[Waiter]] = {}
        self._flights: dict[str, list[Waiter]] = {}
        self._closing: Waiter | None = None
        self._lost = False
        self.whole = _Whole(self)
        """A context in which what is noted and what is written belong together."""

    @classmethod
    def open(cls, url: AMQPURL, *, deadline: Deadline, clock: Clock, client_properties: Table) -> Link:
        """Connect, log in and open the virtual host.

        Raises:
            OSError: nobody answered, in time or at all.
            AMQPError, BrokerUnavailable: the broker refused us, or does not speak AMQP 0-9-1.
            ConfigurationError: the URL's options cannot be used.

        """
        engine = Connection.client(
            username=url.username,
            password=url.password,
            vhost=url.vhost,
            mechanism=url.query.get("auth_mechanism", "PLAIN").upper(),
            client_properties=client_properties,
            peer=url.safe,
            heartbeat_s=0,  # nobody would be there to send them; TCP's keepalive notices a broker that vanished
        )
        transport = sockets.connect(url, deadline=deadline)
        try:
            engine.start(clock.monotonic_s())
            while not engine.is_open:
                transport.write(engine.data_to_send())
                if deadline.remaining_s() <= 0.0:
                    raise TimeoutError("it accepted the connection but did not open it in time")
                if transport.wait(deadline.remaining_s()) and (data := transport.read()) is not None:
                    for event in engine.receive_data(data, clock.monotonic_s()):
                        if event[0] == CLOSED:
                            raise event[1] or BrokerUnavailable("it closed the connection")
        except BaseException:
            transport.close()
            raise
        return cls(url, transport, engine, clock)

    @property
    def lock(self) -> threading.RLock:
        """Return the lock that callers hold around everything.

        Raises:
            LocalProtocolError: a signal handler or a finalizer calls from inside a call of this thread.

        """
        if self._turns.is_inside():
            raise LocalProtocolError("this client is in the middle of another call of this thread")
        return self._turns.lock

    @property
    def frame_max(self) -> int:
        """Return the largest frame of this connection; 0: no limit."""
        return self._engine.frame_max

    @property
    def queued(self) -> int:
        """Return how many bytes have been written to the connection so far."""
        return self._transport.queued

    @property
    def flushed(self) -> int:
        """Return how many of them the kernel has taken; the broker cannot have seen more."""
        return self._transport.flushed

    def listen(self, listener: Listener) -> None:
        """Name who is told what comes unasked."""
        self._listener = listener

    def deadline(self, timeout_s: float) -> Deadline:
        """Return the moment ``timeout_s`` from now."""
        return Deadline(timeout_s, self._clock)

    # ------------------------------------------------------------------------------------------ the callers' side

    def notice(self) -> None:
        """Take in what came while nobody was reading, above all the end of the connection."""
        if self.is_open and not self._turns.reading and self._transport.wait(0.0):
            self._take_in()

    def write(self, data: bytes) -> None:
        """Send frames already made; when that fails the connection is lost, which the listener hears."""
        try:
            self._transport.write(data)
        except OSError as error:
            self.lose(self.lost(reason(error)))
        else:
            if self._turns.reading and self._transport.flushed < self._transport.queued:
                self._transport.wake()  # the thread that reads now has to wait for room, too

    def wait(self, waiter: Waiter, deadline: Deadline) -> bool:
        """Wait until the waiter is finished, reading from the socket in turn with others; tell whether it was in time.

        Raises:
            BrokerUnavailable: the connection is gone, and with it who would finish the waiter.

        """
        if not self.is_open and not waiter.done:
            raise self.lost()
        return self._turns.wait(waiter, deadline)

    def is_channel_open(self, number: int) -> bool:
        """Tell whether calls can be made on a channel."""
        return number in self._calls

    def open_channel(self, number: int, deadline: Deadline) -> None:
        """Open a channel, unless it is open."""
        if number not in self._calls:
            with self.whole:
                self._calls[number] = Calls()
                self.call(number, channel.Open(), deadline)

    def call(self, number: int, method: Method, deadline: Deadline) -> Method:
        """Send a synchronous method and return its reply.

        Raises:
            ReplyError: the broker closed the channel or the connection over it.
            BrokerUnavailable: the connection was lost, or no answer came in time; then it is given up.

        """
        reply = self.call_all(number, [method], deadline)
        assert reply is not None
        return reply

    def call_all(self, number: int, methods: Sequence[Method], deadline: Deadline) -> Method | None:
        """Send synchronous methods at once and return the reply to the last; raises as ``call``."""
        if not self.is_open:
            raise self.lost()
        if number not in self._calls:
            raise BrokerUnavailable(f"{self.url.safe} has closed channel {number} since it was opened")
        if not methods:
            return None
        waiter = Waiter()
        with self.whole:
            for method in methods:
                self._engine.send(number, method)
                waiter = Waiter()
                self._calls[number].add(method, waiter)
            self.write(self._engine.data_to_send())
        if not self.wait(waiter, deadline):
            error = BrokerUnavailable(f"{self.url.safe} did not answer {methods[-1].NAME} within {deadline.timeout_s:g} s")
            self.lose(error)
            raise error
        if waiter.error is not None:
            raise waiter.error
        return waiter.reply

    def once(self, what: str, action: Callable[[], None], deadline: Deadline) -> None:
        """Do something that waits, unless another thread is doing it: then wait for that. Look again afterwards."""
        if what in self._flights:
            waiter = Waiter()
            self._flights[what].append(waiter)
            if not self.wait(waiter, deadline):
                raise BrokerUnavailable(f"{self.url.safe} did not answer within {deadline.timeout_s:g} s")
            return
        self._flights[what] = []
        try:
            action()
        finally:
            for waiter in self._flights.pop(what):
                waiter.finish()

    def lost(self, why: str = "") -> BrokerUnavailable:
        """Return the error for whoever finds the connection gone."""
        return BrokerUnavailable(f"the connection to {self.url.safe} was lost{why and ': '}{why}")

    def close(self, deadline: Deadline) -> None:
        """End the connection as the protocol wants it, or at the deadline without; never raises."""
        if self.is_open and self._closing is None:
            self._closing = Waiter()
            with self.whole:
                self._engine.close()
                self.write(self._engine.data_to_send())
            self.wait(self._closing, deadline)
            self.lose(BrokerUnavailable(f"the connection to {self.url.safe} has been closed"))

    def abandon(self) -> None:
        """Let go of a connection inherited from the parent process, which goes on using it: nothing is sent."""
        self.is_open = False
        self._transport.close()

    # ------------------------------------------------------------------------------------------ the broker's side

    def lose(self, error: LeveretError) -> None:
        """Give the connection up: everybody who waits is told."""
        if self._lost:
            return
        self._lost = True
        try:
            for waiter in self._pending_calls():
                waiter.finish(error=self._failure(error))
            if self._listener is not None:
                self._listener.on_lost(error)
            if self._closing is not None:
                self._closing.finish()
        finally:
            self.is_open = False  # not before: who sees it makes a new connection, and nothing may happen on this one then
            if self._turns.reading:
                self._transport.wake()  # the thread that waits at the socket closes it
            else:
                self._transport.close()

    def _pending_calls(self) -> Iterator[Waiter]:
        for calls in self._calls.values():
            yield from calls.clear()

    def _failure(self, error: LeveretError) -> LeveretError:
        """Return a new error for one caller: the reply code that answers its call, or that the connection is gone."""
        if isinstance(error, ReplyError) and not isinstance(error, ConnectionForced):
            return reply_error(error.reply_code, error.reply_text, class_id=error.class_id, method_id=error.method_id)
        failure = BrokerUnavailable(str(error)) if isinstance(error, BrokerUnavailable) else self.lost(str(error))
        failure.__cause__ = error
        return failure

    def _after_wait(self, something_came: bool) -> None:
        try:
            if something_came and self.is_open:
                self._take_in()
        finally:
            if self._lost:
                self._transport.close()

    def _take_in(self) -> None:
        try:
            self._transport.flush()
            while (data := self._transport.read()) is not None:
                self.reads += 1
                for event in self._engine.receive_data(data, self._clock.monotonic_s()):
                    self._dispatch(event)
                if not data or not self._transport.may_have_more(data):
                    break
            if self.is_open and (answers := self._engine.data_to_send()):
                self._transport.write(answers)
            if self.is_open and not self._engine.is_open and self._closing is None:
                # We have closed it over what the broker sent; the engine says why at the end of the stream.
                for event in self._engine.receive_data(b"", self._clock.monotonic_s()):
                    self._dispatch(event)
        except OSError as error:
            self.lose(self.lost(reason(error)))
        except AMQPError as error:
            self.lose(error)
        except BaseException:
            # Interrupted (Ctrl-C) between two bytes of the conversation: this connection cannot go on, another can.
            self.lose(self.lost("interrupted while reading"))
            raise

    def _dispatch(self, event: Event) -> None:
        if event[0] == CLOSED:
            self.lose(event[1] or self.lost("closed by the broker"))
            return
        if event[0] == METHOD and event[1] and not isinstance(event[2], basic.Return | basic.Cancel):
            self._on_method(event[1], event[2])
        elif self._listener is not None:
            self._listener.on_event(event)

    def _on_method(self, number: int, method: Method) -> None:
        match method:
            case channel.Close():
                error = reply_error(
                    method.reply_code, method.reply_text, class_id=method.class_id, method_id=method.method_id, soft=True
                )
                for waiter in self._calls.pop(number, Calls[Waiter]()).clear():
                    waiter.finish(error=error)
                if self._listener is not None:
                    self._listener.on_channel_closed(number, error)
            case channel.Flow():
                self._engine.send(number, channel.FlowOk(method.active))
            case _ if number in self._calls:
                self._calls[number].answer(method).finish(reply=method)
            case _:
                raise RemoteProtocolError(f"the broker sent {method.NAME} on channel {number}, which is not open")
