"""Confirmed, mandatory publishing on one channel of a link: single messages from many threads, and batches.

A message is settled by what comes first::

    sent ──┬── basic.ack ──────────────► taken
           ├── basic.return ───────────► Unroutable
           ├── basic.nack ─────────────► PublishNacked
           ├── channel.close ──────────► the reply code, for the message it is about; PublishUnconfirmed for the others
           ├── connection lost ────────► BrokerUnavailable if some of it had not left this machine, else PublishUnconfirmed
           └── the deadline ───────────► PublishBlocked under connection.blocked, else PublishUnconfirmed

``BrokerUnavailable`` always means that the broker cannot have taken the message: it may be sent again.

A named exchange is looked up (a passive declaration) before its first message: a missing one would close the channel and
leave the messages of all other threads unconfirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from leveret.amqp.events import MULTIPLE_BIT, NACK_BIT, AckEvent
from leveret.amqp.frames import publish_frames
from leveret.amqp.methods import basic, confirm
from leveret.amqp.tables import encode_shortstr
from leveret.client.deadline import Deadline
from leveret.client.declarer import Declarer
from leveret.client.failures import RESEND_ADVICE, culprit, nacked, place, unconfirmed, unroutable
from leveret.client.link import Link
from leveret.client.session import Confirms
from leveret.client.turns import Waiter
from leveret.errors import (
    BrokerUnavailable,
    LeveretError,
    PublishBlocked,
    PublishUnconfirmed,
    ReplyError,
)

__all__ = ["PUBLISH_CHANNEL", "Batch", "Message", "Publisher", "framed"]

PUBLISH_CHANNEL: Final = 1

Message: TypeAlias = tuple[str, str, bytes, bytes]
"""(exchange, routing key, header, body)."""

_MANDATORY: Final = 1


class _Owner(Protocol):
    """Who waits for the outcome of a message."""

    end: int
    """Where in the connection's bytes the message ends; 0: the owner has several."""

    def taken(self, size_bytes: int) -> None:
        """Learn that the broker has taken a message with a body of this size."""
        ...

    def failed(self, size_bytes: int, error: LeveretError) -> None:
        """Learn that it has not, or that nobody knows."""
        ...


class _Single:
    """One message, one waiting thread."""

    __slots__ = ("end", "waiter")

    def __init__(self, end: int) -> None:
        self.end = end
        self.waiter = Waiter()

    def taken(self, size_bytes: int) -> None:
        self.waiter.finish()

    def failed(self, size_bytes: int, error: LeveretError) -> None:
        self.waiter.finish(error=error)


class Batch:
    """Many messages of one thread, of which a window is in flight; the first failure is kept."""

    __slots__ = ("confirmed", "end", "error", "in_flight", "in_flight_bytes", "resume_below", "waiter")

    def __init__(self) -> None:
        self.confirmed = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.error: LeveretError | None = None
        self.end = 0
        self.resume_below = (0, 0)
        """How many messages and bytes may be in flight when the thread goes on."""
        self.waiter = Waiter()

    def taken(self, size_bytes: int) -> None:
        """Count a confirmed message."""
        self.confirmed += 1
        self._settled(size_bytes)

    def failed(self, size_bytes: int, error: LeveretError) -> None:
        """Keep the error if it is the first."""
        if self.error is None:
            self.error = error
        self._settled(size_bytes)

    def has_room(self) -> bool:
        """Tell whether no more is in flight than the thread waits for."""
        count, size_bytes = self.resume_below
        return self.in_flight <= count and self.in_flight_bytes <= size_bytes

    def _settled(self, size_bytes: int) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= size_bytes
        if self.has_room():
            self.waiter.finish()


class Publisher:
    """The publishing channel of a link. Every method is called under the link's lock."""

    def __init__(self, link: Link, declarer: Declarer) -> None:
        self._link = link
        self._declarer = declarer
        self._confirms: Confirms[_Owner] | None = None
        self._blocked: str | None = None
        self._unblocked: list[Waiter] = []

    # ------------------------------------------------------------------------------------------ the callers' side

    def publish(self, message: Message, frames: bytes, deadline: Deadline) -> None:
        """Send one message and wait until the broker has taken it; ``frames`` are its frames, made by :func:`framed`.

        Raises:
            BrokerUnavailable: the connection was lost; the broker cannot have taken the message.
            PublishError: one of its kinds, by what came first.
            ReplyError: the broker closed the channel or the connection over it.

        """
        link = self._link
        confirms = self._ready([message[0]], deadline)
        reads = link.reads
        owner = _Single(link.queued + len(frames))
        with link.whole:
            number = confirms.add((owner, *message))
            link.write(frames)
        try:
            in_time = link.wait(owner.waiter, deadline)
        finally:
            confirms.forget(number)
        if not in_time:
            raise self._not_confirmed(message, deadline, in_doubt=owner.end <= link.flushed, silent=reads == link.reads)
        if owner.waiter.error is not None:
            raise owner.waiter.error

    def send(self, batch: Batch, messages: Sequence[Message], frames: bytes, deadline: Deadline) -> None:
        """Send messages of a batch without waiting for them; raises as ``publish`` when they cannot be sent."""
        confirms = self._ready({message[0] for message in messages}, deadline)
        with self._link.whole:
            for message in messages:
                batch.in_flight_bytes += len(message[3])
                confirms.add((batch, *message))
            batch.in_flight += len(messages)
            self._link.write(frames)

    def await_room(self, batch: Batch, *, count: int, size_bytes: int, timeout_s: float) -> None:
        """Wait until no more of a batch than this is in flight; the timeout begins anew with every confirm.

        Raises:
            PublishError: no confirm came for ``timeout_s``.

        """
        batch.resume_below = (count, size_bytes)
        while not batch.has_room():
            reads, confirmed = self._link.reads, batch.confirmed
            batch.waiter = Waiter()
            deadline = self._link.deadline(timeout_s)
            in_time = self._link.wait(batch.waiter, deadline)
            if not in_time and confirmed == batch.confirmed:
                raise self._not_confirmed(None, deadline, in_doubt=True, silent=reads == self._link.reads)

    # ------------------------------------------------------------------------------------------ the broker's side

    def on_confirm(self, event: AckEvent) -> None:
        """Settle what basic.ack or basic.nack names."""
        if self._confirms is None:
            return
        _, _, delivery_tag, kind = event
        settled = self._confirms.settle(delivery_tag, multiple=bool(kind & MULTIPLE_BIT))
        if kind & NACK_BIT:
            for publication in settled:
                publication[0].failed(len(publication[4]), nacked(publication, self._url))
        else:
            for publication in settled:
                publication[0].taken(len(publication[4]))

    def on_return(self, method: basic.Return, header: bytes, body: bytes) -> None:
        """Fail the message that basic.return hands back."""
        self._declarer.forget()  # a queue we have declared may be gone: declare again next time
        if self._confirms is None:
            return
        returned = self._confirms.take_returned(method.exchange, method.routing_key, header, body)
        if returned is not None:
            returned[0].failed(len(body), unroutable(returned, method, self._url))

    def on_blocked(self, reason: str | None) -> None:
        """Learn that the broker takes no messages for a reason, or with None that it does again."""
        self._blocked = reason
        if reason is None:
            self._wake_blocked()

    def on_channel_closed(self, error: ReplyError) -> None:
        """Fail what was in flight; the next message opens the channel again."""
        self._declarer.forget()
        self._fail(error, left=self._link.queued)

    def on_lost(self, error: LeveretError) -> None:
        """Fail what was in flight."""
        self._fail(error, left=self._link.flushed)
        self._wake_blocked()

    # ---------------------------------------------------------------------------------------------------- details

    @property
    def _url(self) -> str:
        return self._link.url.safe

    def _ready(self, exchanges: Iterable[str], deadline: Deadline) -> Confirms[_Owner]:
        """Wait until a message can be written at once; every wait lets other threads in, so look again after each."""
        link = self._link
        while True:
            link.notice()
            if not link.is_open:
                raise link.lost()
            unknown = next((name for name in exchanges if not self._declarer.knows(name)), None)
            if self._confirms is None:
                link.once("publishing", lambda: self._open(deadline), deadline)
            elif unknown is not None:
                self._declarer.check(unknown, deadline)
            elif self._blocked is not None:
                self._await_unblocked(deadline)
            else:
                return self._confirms

    def _open(self, deadline: Deadline) -> None:
        self._link.open_channel(PUBLISH_CHANNEL, deadline)
        self._link.call(PUBLISH_CHANNEL, confirm.Select(), deadline)
        if self._link.is_channel_open(PUBLISH_CHANNEL):  # other threads have read since the reply came
            self._confirms = Confirms()

    def _await_unblocked(self, deadline: Deadline) -> None:
        waiter = Waiter()
        self._unblocked.append(waiter)
        try:
            in_time = self._link.wait(waiter, deadline)
        finally:
            self._unblocked.remove(waiter)
        if not in_time:
            raise PublishBlocked(
                f"{self._url} takes no messages ({self._blocked}) and did not change that within {deadline.timeout_s:g} s;"
                " nothing was sent"
            )

    def _wake_blocked(self) -> None:
        for waiter in self._unblocked:
            waiter.finish()

    def _not_confirmed(self, message: Message | None, deadline: Deadline, *, in_doubt: bool, silent: bool) -> LeveretError:
        """Return the error for messages that are not settled at the deadline; give up a broker that has gone silent."""
        what = "messages" if message is None else f"a message to {place((None, *message))}"
        if self._blocked is not None:
            return PublishBlocked(
                f"{self._url} takes no messages ({self._blocked}); it said so when {what} had been sent, which it may still take"
                " when it goes on"
            )
        if silent:
            self._link.lose(self._link.lost(f"nothing came for {deadline.timeout_s:g} s"))
        if not in_doubt and silent:
            return BrokerUnavailable(f"{self._url} took no bytes for {deadline.timeout_s:g} s; {what} cannot have been taken")
        return PublishUnconfirmed(f"{self._url} did not confirm {what} within {deadline.timeout_s:g} s: {RESEND_ADVICE}")

    def _fail(self, error: LeveretError, *, left: int) -> None:
        """Fail all that is in flight; of the connection's bytes ``left`` have left this machine, as far as we know."""
        if self._confirms is None:
            return
        publications = self._confirms.clear()
        self._confirms = None
        to_blame = culprit(publications, error)
        for publication in publications:
            owner = publication[0]
            failure: LeveretError
            if publication is to_blame:
                failure = error
            elif owner.end > left:
                failure = self._link.lost()
                failure.__cause__ = error
            else:
                failure = unconfirmed(publication, error, self._url)
            owner.failed(len(publication[4]), failure)


def framed(messages: Iterable[Message], *, mandatory: bool, frame_max: int) -> bytes:
    """Return the frames of messages on the publishing channel."""
    return b"".join(
        [
            publish_frames(
                PUBLISH_CHANNEL,
                encode_shortstr(exchange, "exchange") + encode_shortstr(routing_key, "routing key"),
                _MANDATORY if mandatory else 0,
                header,
                body,
                frame_max,
            )
            for exchange, routing_key, header, body in messages
        ]
    )
