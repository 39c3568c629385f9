"""The blocking client against a broker that follows a script: every way a publish can end, by one thread and by several."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random

import pytest

from leveret.amqp.connection import Event
from leveret.amqp.frames import ack_frame, nack_frame
from leveret.amqp.methods import Method, basic, channel, connection, exchange, queue
from leveret.amqp.properties import BasicProperties, encode_header
from leveret.amqp.topology import Exchange, Queue
from leveret.amqp.uris import AMQPURL, parse_url
from leveret.client.blocking import WINDOW_BYTES_MAX, WINDOW_COUNT_MAX, BlockingClient
from leveret.client.link import Link
from leveret.errors import (
    BrokerUnavailable,
    ConfigurationError,
    LocalProtocolError,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
    PublishBlocked,
    PublishNacked,
    PublishUnconfirmed,
    Unroutable,
)
from tests.support.waiting import wait_until
from tests.unit.client.scripted_broker import Client, Published, ScriptedBroker, confirm_all

PATIENCE_S = 10.0
SHORT_S = 0.2
BODY = b"body"
HEADER = encode_header(len(BODY), BasicProperties(delivery_mode=2))


@pytest.fixture
def script() -> Iterator[ScriptedBroker]:
    """Run a scripted broker."""
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
def client(script: ScriptedBroker) -> Iterator[BlockingClient]:
    """Make a client of it, not connected yet."""
    one = BlockingClient(lambda: [script.url])
    yield one
    one.close()


def _publish(client: BlockingClient, *, timeout_s: float = PATIENCE_S, exchange: str = "", body: bytes = BODY) -> None:
    client.publish(exchange, "tasks", encode_header(len(body), BasicProperties(delivery_mode=2)), body, timeout_s=timeout_s)


def _ignore(client: Client, message: Published) -> None:
    pass


class _Thread(threading.Thread):
    """Calls something and keeps how it ended."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.result: object = None
        self.error: BaseException | None = None
        self._action = action
        self.start()

    def run(self) -> None:
        try:
            self.result = self._action()
        except Exception as error:
            self.error = error

    def outcome(self) -> type[BaseException] | None:
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return None if self.error is None else type(self.error)


# --------------------------------------------------------------------------------------------- one message


def test_a_publish_returns_with_its_confirm(script: ScriptedBroker, client: BlockingClient) -> None:
    """The message arrives as it was given, mandatory and on a channel with confirms, and the call returns."""
    _publish(client)
    assert [(one.route, one.header, one.body) for one in script.published] == [(b"\x00\x05tasks", HEADER, BODY)]


def test_a_refused_message_raises(script: ScriptedBroker, client: BlockingClient) -> None:
    """basic.nack: the broker has not taken the message, and the next one is not affected."""
    script.on_publish = lambda one, message: one.write(nack_frame(message.channel, message.tag))
    with pytest.raises(PublishNacked, match="queue 'tasks'"):
        _publish(client)
    script.on_publish = confirm_all
    _publish(client)


def _return_and_confirm(one: Client, message: Published) -> None:
    one.send(message.channel, basic.Return(312, "NO_ROUTE", "", "tasks"), message.header, message.body)
    one.write(ack_frame(message.channel, message.tag))


def test_a_returned_message_raises(script: ScriptedBroker, client: BlockingClient) -> None:
    """basic.return: nobody would get the message; that it is confirmed as well does not matter."""
    script.on_publish = _return_and_confirm
    with pytest.raises(Unroutable, match=r"no queue for a message to queue 'tasks' and returned it \(312 NO_ROUTE\)"):
        _publish(client)
    script.on_publish = confirm_all
    _publish(client)


def test_a_return_makes_the_client_declare_again(script: ScriptedBroker, client: BlockingClient) -> None:
    """A queue that was declared may have been deleted: after a return the memory of declarations is void."""
    client.declare([Queue("tasks")], PATIENCE_S)
    script.on_publish = _return_and_confirm
    with pytest.raises(Unroutable):
        _publish(client)
    client.declare([Queue("tasks")], PATIENCE_S)
    client.declare([Queue("tasks")], PATIENCE_S)
    assert script.clients[0].calls.count(queue.Declare("tasks", durable=True)) == 2


def test_a_connection_lost_before_the_confirm_leaves_doubt(script: ScriptedBroker, client: BlockingClient) -> None:
    """The bytes were written and no answer came: the client says so, does not send again, and connects for the next."""
    script.on_publish = lambda one, message: one.end()
    with pytest.raises(PublishUnconfirmed, match=r"may or may not have been taken.*same id"):
        _publish(client)
    script.on_publish = confirm_all
    _publish(client)
    assert len(script.clients) == 2
    assert len(script.published) == 2


def test_a_silent_broker_is_given_up_at_the_deadline(script: ScriptedBroker, client: BlockingClient) -> None:
    """Nothing comes at all: the message is in doubt, and the connection is not used again."""
    script.on_publish = _ignore
    with pytest.raises(PublishUnconfirmed, match=r"did not confirm a message to queue 'tasks' within 0\.2 s"):
        _publish(client, timeout_s=SHORT_S)
    script.on_publish = confirm_all
    _publish(client)
    assert len(script.clients) == 2


def test_a_slow_confirm_does_not_cost_the_connection(script: ScriptedBroker, client: BlockingClient) -> None:
    """A broker that talks, only not about our message, is alive; a confirm that comes too late means nothing."""
    script.on_publish = lambda one, message: one.send(0, connection.Unblocked())
    with pytest.raises(PublishUnconfirmed):
        _publish(client, timeout_s=SHORT_S)
    script.on_publish = lambda one, message: one.write(ack_frame(message.channel, message.tag, multiple=True))
    _publish(client)
    assert len(script.clients) == 1


def test_a_blocked_broker_is_waited_for(script: ScriptedBroker, client: BlockingClient) -> None:
    """connection.blocked is not a failure yet: unblocking within the deadline lets the message through."""
    blocked = threading.Event()

    def block(one: Client, message: Published) -> None:
        one.send(0, connection.Blocked("low on memory"))
        blocked.set()

    script.on_publish = block
    thread = _Thread(lambda: _publish(client))
    assert blocked.wait(PATIENCE_S)
    script.clients[0].send(0, connection.Unblocked())
    script.clients[0].write(ack_frame(1, 1))
    assert thread.outcome() is None


def test_a_blocked_broker_raises_at_the_deadline(script: ScriptedBroker, client: BlockingClient) -> None:
    """The message that made the broker say so may still be taken; the next is not even sent, until it unblocks."""
    script.on_publish = lambda one, message: one.send(0, connection.Blocked("low on disk"))
    with pytest.raises(PublishBlocked, match=r"takes no messages \(low on disk\).*may still take"):
        _publish(client, timeout_s=SHORT_S)
    with pytest.raises(PublishBlocked, match=r"low on disk.*nothing was sent"):
        _publish(client, timeout_s=SHORT_S)
    assert len(script.published) == 1
    script.on_publish = confirm_all
    script.clients[0].send(0, connection.Unblocked())
    _publish(client)
    assert len(script.published) == 2
    assert len(script.clients) == 1


def test_a_connection_found_closed_is_replaced(script: ScriptedBroker, client: BlockingClient) -> None:
    """A connection that ended while nobody looked is noticed before anything is written: no error, no doubt."""
    _publish(client)
    script.clients[0].end()
    _await_something_to_read(client)
    _publish(client)
    script.clients[1].send(0, connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
    _await_something_to_read(client)
    _publish(client)
    assert len(script.clients) == 3
    assert len(script.published) == 3


def test_a_message_that_did_not_leave_is_sent_again(script: ScriptedBroker, client: BlockingClient) -> None:
    """When the connection goes while the kernel still holds a part of the message, the broker cannot have taken it."""
    script.on_publish = _confirm_and_stop_reading
    _publish(client)
    large = b"x" * (32 << 20)
    thread = _Thread(lambda: _publish(client, body=large))
    wait_until(lambda: _unsent_bytes(client) > 0, PATIENCE_S, "the kernel's buffers to be full")
    script.on_publish = confirm_all
    script.clients[0].end()
    assert thread.outcome() is None
    assert len(script.clients) == 2
    assert [len(one.body) for one in script.published] == [len(BODY), len(large)]


def test_a_broker_that_takes_no_bytes_cannot_have_taken_the_message(script: ScriptedBroker, client: BlockingClient) -> None:
    """At the deadline the client knows that the message has not left whole: no doubt, and another connection next time."""
    script.on_publish = _confirm_and_stop_reading
    _publish(client)
    with pytest.raises(BrokerUnavailable, match="took no bytes"):
        _publish(client, body=b"x" * (32 << 20), timeout_s=SHORT_S)
    script.on_publish = confirm_all
    _publish(client)
    assert len(script.clients) == 2


def _confirm_and_stop_reading(one: Client, message: Published) -> None:
    one.reading.clear()
    confirm_all(one, message)


def _link(client: BlockingClient) -> Link:
    current = client._connector()._current
    assert current is not None
    return current._link


def _unsent_bytes(client: BlockingClient) -> int:
    return _link(client).queued - _link(client).flushed


def _await_something_to_read(client: BlockingClient) -> None:
    wait_until(lambda: _link(client)._transport.wait(0.0), PATIENCE_S, "something to read")


# --------------------------------------------------------------------------------------------- reply codes


def test_a_reply_code_goes_to_the_publisher_it_is_about(script: ScriptedBroker, client: BlockingClient) -> None:
    """A channel closed over a message raises the code; the next message opens a channel again on the same connection."""
    script.on_publish = lambda one, message: one.send(
        message.channel, channel.Close(404, "NOT_FOUND - no exchange 'logs' in vhost '/'", *basic.Publish.INDEX)
    )
    with pytest.raises(NotFound, match="no exchange 'logs'"):
        _publish(client, exchange="logs")
    script.on_publish = confirm_all
    _publish(client)
    assert len(script.clients) == 1


def test_others_on_the_closed_channel_are_in_doubt(script: ScriptedBroker, client: BlockingClient) -> None:
    """Of several messages in flight the code is for the one it names; of the rest nobody knows whether they were taken."""
    arrived: list[Published] = []
    both = threading.Event()

    def wait_for_both(one: Client, message: Published) -> None:
        arrived.append(message)
        if len(arrived) == 2:
            both.set()

    script.on_publish = wait_for_both
    innocent = _Thread(lambda: _publish(client))
    culprit = _Thread(lambda: _publish(client, exchange="logs"))
    assert both.wait(PATIENCE_S)
    script.clients[0].send(1, channel.Close(404, "NOT_FOUND - no exchange 'logs' in vhost '/'", *basic.Publish.INDEX))
    assert innocent.outcome() is PublishUnconfirmed
    assert culprit.outcome() is NotFound


def test_a_missing_exchange_is_found_before_anything_is_published(script: ScriptedBroker, client: BlockingClient) -> None:
    """The look-up has a channel of its own, so that a wrong name disturbs nobody else's messages."""
    waiting = threading.Event()
    script.on_publish = lambda one, message: waiting.set()
    script.on_call = _refuse_missing_exchange
    other = _Thread(lambda: _publish(client))
    assert waiting.wait(PATIENCE_S)
    with pytest.raises(NotFound, match="no exchange 'missing'"):
        _publish(client, exchange="missing")
    script.clients[0].write(ack_frame(1, 1))
    assert other.outcome() is None
    assert len(script.published) == 1


def test_an_exchange_is_looked_up_once(script: ScriptedBroker, client: BlockingClient) -> None:
    """A connection remembers the exchanges it has found."""
    _publish(client, exchange="logs")
    _publish(client, exchange="logs")
    assert script.clients[0].calls.count(exchange.Declare("logs", passive=True)) == 1


def _refuse_missing_exchange(one: Client, number: int, method: Method) -> bool:
    if isinstance(method, exchange.Declare) and method.exchange == "missing":
        one.send(number, channel.Close(404, "NOT_FOUND - no exchange 'missing' in vhost '/'", *exchange.Declare.INDEX))
        return False
    return True


def test_a_refused_declaration_raises_and_can_be_mended(script: ScriptedBroker, client: BlockingClient) -> None:
    """The code goes to the caller; other declarations work afterwards, and what was refused is not remembered."""

    def refuse(one: Client, number: int, method: Method) -> bool:
        if method == queue.Declare("tasks", durable=True):
            one.send(number, channel.Close(406, "PRECONDITION_FAILED - inequivalent arg", *queue.Declare.INDEX))
            return False
        return True

    script.on_call = refuse
    for _ in range(2):
        with pytest.raises(PreconditionFailed):
            client.declare([Queue("tasks")], PATIENCE_S)
    client.declare([Queue("other")], PATIENCE_S)


def test_a_hard_code_goes_to_the_caller_it_answers(script: ScriptedBroker, client: BlockingClient) -> None:
    """A call that costs the connection raises the reply code, and the next call finds a new connection."""

    def refuse(one: Client, number: int, method: Method) -> bool:
        if isinstance(method, queue.Declare) and not method.durable:
            one.send(0, connection.Close(540, "NOT_IMPLEMENTED - transient queue", *queue.Declare.INDEX))
            return False
        return True

    script.on_call = refuse
    with pytest.raises(NotImplementedByBroker):
        client.declare([Queue("tasks", durable=False)], PATIENCE_S)
    client.declare([Queue("tasks")], PATIENCE_S)
    assert len(script.clients) == 2


def test_declarations_are_made_once_per_connection(script: ScriptedBroker, client: BlockingClient) -> None:
    """A connection remembers what it has declared; a new one knows nothing."""
    tasks = Queue("tasks", Exchange("work"), "tasks")
    for _ in range(2):
        client.declare([tasks], PATIENCE_S)
    script.clients[0].end()
    _await_something_to_read(client)
    client.declare([tasks], PATIENCE_S)
    for one in script.clients:
        declared = [call for call in one.calls if isinstance(call, exchange.Declare | queue.Declare | queue.Bind)]
        assert declared == [
            exchange.Declare("work", durable=True),
            queue.Declare("tasks", durable=True),
            queue.Bind("tasks", "work", "tasks"),
        ]


def test_a_declaration_cut_off_is_made_again(script: ScriptedBroker, client: BlockingClient) -> None:
    """Declaring twice does no harm, so a connection lost in the middle is replaced."""

    def end_first(one: Client, number: int, method: Method) -> bool:
        if isinstance(method, queue.Declare) and one is script.clients[0]:
            one.end()
            return False
        return True

    script.on_call = end_first
    client.declare([Queue("tasks")], PATIENCE_S)
    assert len(script.clients) == 2


def test_a_call_without_an_answer_ends_at_the_deadline(script: ScriptedBroker, client: BlockingClient) -> None:
    """The error names the broker and the method."""
    script.on_call = lambda one, number, method: not isinstance(method, queue.Declare)
    with pytest.raises(BrokerUnavailable, match=r"did not answer queue\.declare within 0\.2 s"):
        client.declare([Queue("tasks")], SHORT_S)


# --------------------------------------------------------------------------------------------- threads and batches


def test_threads_pipeline_on_one_channel(script: ScriptedBroker, client: BlockingClient) -> None:
    """Messages of several threads are in flight at once, and one confirm with multiple settles them all."""
    all_here = threading.Event()

    def confirm_together(one: Client, message: Published) -> None:
        if len(script.published) == 8:
            one.write(ack_frame(message.channel, message.tag, multiple=True))
            all_here.set()

    script.on_publish = confirm_together
    threads = [_Thread(lambda: _publish(client)) for _ in range(8)]
    assert all_here.wait(PATIENCE_S)
    assert [thread.outcome() for thread in threads] == [None] * 8
    assert len(script.clients) == 1
    assert {message.channel for message in script.published} == {1}


def test_threads_that_need_the_connection_at_once_make_one(script: ScriptedBroker, client: BlockingClient) -> None:
    """The first thread connects, opens the channel and declares; the others wait for it."""
    threads = [_Thread(lambda: client.declare([Queue("tasks")], PATIENCE_S)) for _ in range(8)]
    assert [thread.outcome() for thread in threads] == [None] * 8
    assert len(script.clients) == 1
    assert script.clients[0].calls.count(queue.Declare("tasks", durable=True)) == 1


def test_a_batch_keeps_a_window_in_flight(script: ScriptedBroker, client: BlockingClient) -> None:
    """Without a confirm no more than the window is sent; every confirm lets more go."""
    script.on_publish = _ignore
    messages = [("", "tasks", HEADER, BODY)] * (WINDOW_COUNT_MAX + 500)
    thread = _Thread(lambda: client.publish_many(messages, timeout_s=PATIENCE_S))
    wait_until(lambda: len(script.published) == WINDOW_COUNT_MAX, PATIENCE_S, "the window to be full")
    script.clients[0].write(ack_frame(1, WINDOW_COUNT_MAX - 1, multiple=True))
    wait_until(lambda: len(script.published) == len(messages), PATIENCE_S, "the rest")
    assert thread.is_alive()
    script.clients[0].write(ack_frame(1, len(messages), multiple=True))
    assert thread.outcome() is None
    assert thread.result == len(messages)


def test_a_batch_holds_a_window_of_bytes(script: ScriptedBroker, client: BlockingClient) -> None:
    """Large messages fill the window by their size; one larger than all of it goes alone."""
    script.on_publish = _ignore
    size = WINDOW_BYTES_MAX // 4
    large = encode_header(size, BasicProperties())
    huge = encode_header(2 * WINDOW_BYTES_MAX, BasicProperties())
    messages = [("", "tasks", large, b"x" * size)] * 8 + [("", "tasks", huge, b"x" * (2 * WINDOW_BYTES_MAX))]
    thread = _Thread(lambda: client.publish_many(messages, timeout_s=PATIENCE_S))
    for last in (4, 8, 9):
        wait_until(lambda last=last: len(script.published) == last, PATIENCE_S, f"message {last}")  # type: ignore[misc]  # a bound default
        script.clients[0].write(ack_frame(1, last, multiple=True))
    assert thread.outcome() is None
    assert thread.result == 9


def test_the_first_failure_of_a_batch_is_raised_with_the_count(script: ScriptedBroker, client: BlockingClient) -> None:
    """What was in flight is settled first, so the number of confirmed messages is exact."""

    def refuse_the_third(one: Client, message: Published) -> None:
        one.write(nack_frame(1, 3) if message.tag == 3 else ack_frame(1, message.tag))

    script.on_publish = refuse_the_third
    with pytest.raises(PublishNacked, match="9 messages of the batch were confirmed") as caught:
        client.publish_many([("", "tasks", HEADER, BODY)] * 10, timeout_s=PATIENCE_S)
    assert caught.value.confirmed == 9


def test_a_batch_cut_off_says_how_much_was_confirmed(script: ScriptedBroker, client: BlockingClient) -> None:
    """With messages in doubt nothing is sent again on a new connection."""
    script.on_publish = lambda one, message: confirm_all(one, message) if message.tag <= 5 else one.end()
    with pytest.raises(PublishUnconfirmed, match="5 messages of the batch were confirmed") as caught:
        client.publish_many([("", "tasks", HEADER, BODY)] * 10, timeout_s=PATIENCE_S)
    assert caught.value.confirmed == 5
    assert len(script.clients) == 1


def test_a_batch_without_progress_ends(script: ScriptedBroker, client: BlockingClient) -> None:
    """The time is how long the broker may take without any progress."""
    script.on_publish = lambda one, message: confirm_all(one, message) if message.tag <= 5 else None
    with pytest.raises(PublishUnconfirmed, match="5 messages of the batch were confirmed"):
        client.publish_many([("", "tasks", HEADER, BODY)] * 10, timeout_s=SHORT_S)


def test_an_empty_batch_does_nothing(script: ScriptedBroker, client: BlockingClient) -> None:
    """No messages, no connection."""
    assert client.publish_many([], timeout_s=SHORT_S) == 0
    assert script.clients == []


def test_a_batch_may_come_from_a_generator_that_publishes(script: ScriptedBroker, client: BlockingClient) -> None:
    """Messages are taken from their source while no lock is held."""

    def messages() -> Iterator[tuple[str, str, bytes, bytes]]:
        for _ in range(3):
            _publish(client)
            yield ("", "tasks", HEADER, BODY)

    assert client.publish_many(messages(), timeout_s=PATIENCE_S) == 3
    assert len(script.published) == 6


# --------------------------------------------------------------------------------------------- interruptions


class _Interruption(BaseException):
    """What a signal handler raises, as Ctrl-C does."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """Have SIGALRM raise in the main thread."""

    def interrupt(*_: object) -> None:
        raise _Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_an_interrupted_wait_costs_nothing(script: ScriptedBroker, client: BlockingClient) -> None:
    """Ctrl-C ends the wait of that one call; the connection and the others' messages are not affected."""
    _publish(client)

    def interrupt(one: Client, message: Published) -> None:
        wait_until(lambda: _is_waiting(client), PATIENCE_S, "the publisher to wait")
        os.kill(os.getpid(), signal.SIGALRM)

    script.on_publish = interrupt
    with pytest.raises(_Interruption):
        _publish(client)
    script.on_publish = confirm_all
    script.clients[0].write(ack_frame(1, 2))
    _publish(client)
    assert len(script.clients) == 1


def _is_waiting(client: BlockingClient) -> bool:
    turns = _link(client)._turns
    if not turns.reading or not turns.lock.acquire(blocking=False):
        return False
    turns.lock.release()
    return True


@pytest.mark.usefixtures("alarm")
def test_an_interruption_at_any_moment_leaves_the_client_usable(script: ScriptedBroker, client: BlockingClient) -> None:
    """Wherever it hits, the next call works, no other thread is stuck, and every message that was confirmed has arrived."""
    random = Random(1)
    stop = threading.Event()
    confirmed: list[bytes] = []

    def publish_until_stopped() -> None:
        while not stop.is_set():
            with suppress(PublishUnconfirmed, BrokerUnavailable):  # the connection may be lost under it, and again
                _publish(client)

    other = _Thread(publish_until_stopped)
    interruptions = 0
    for number in range(300):
        body = b"%d" % number
        client.declare([], PATIENCE_S)  # connects, where the last one cost the connection
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.001))
            try:
                _publish(client, body=body)
                confirmed.append(body)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
        except _Interruption:
            interruptions += 1
    _publish(client)
    stop.set()
    assert other.outcome() is None
    assert interruptions > 20
    assert set(confirmed) <= {message.body for message in script.published}


def test_a_signal_handler_that_publishes_is_refused(script: ScriptedBroker, client: BlockingClient) -> None:
    """From inside a call of the same thread the client cannot be used: an error, not a deadlock."""
    refused: list[LocalProtocolError] = []

    def publish(*_: object) -> None:
        try:
            _publish(client)
        except LocalProtocolError as error:
            refused.append(error)

    def interrupt(one: Client, message: Published) -> None:
        wait_until(lambda: _is_waiting(client), PATIENCE_S, "the publisher to wait")
        os.kill(os.getpid(), signal.SIGALRM)
        wait_until(lambda: refused, PATIENCE_S, "the handler to run")
        confirm_all(one, message)

    before = signal.signal(signal.SIGALRM, publish)
    try:
        script.on_publish = interrupt
        _publish(client)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(refused) == 1
    assert len(script.published) == 1


def test_an_interrupt_between_two_events_costs_the_connection_only(script: ScriptedBroker, client: BlockingClient) -> None:
    """When the conversation is cut in the middle of what came, the client makes a new connection by itself."""
    _publish(client)
    handle, interrupted = _link(client)._engine.receive_data, []

    def interrupt(data: bytes, now_s: float) -> Iterator[Event]:
        interrupted.append(data)
        yield from handle(data, now_s)
        raise KeyboardInterrupt

    _link(client)._engine.receive_data = interrupt  # type: ignore[method-assign]  # as a signal would in that place
    with pytest.raises(KeyboardInterrupt):
        _publish(client)
    assert interrupted
    _publish(client)
    assert len(script.clients) == 2


# --------------------------------------------------------------------------------------------- replies


def _deliver(one: Client, correlation_id: str, body: bytes) -> None:
    one.deliver(2, 1, encode_header(len(body), BasicProperties(correlation_id=correlation_id)), body)


def test_a_reply_comes_to_who_waits_for_it(script: ScriptedBroker, client: BlockingClient) -> None:
    """Two threads wait for two replies that come in the other order."""
    name = client.reply_queue()
    threads = [_Thread(lambda id_=id_: client.wait_reply(id_, PATIENCE_S)) for id_ in ("a", "b")]  # type: ignore[misc]  # a bound default
    _deliver(script.clients[0], "b", b"for b")
    _deliver(script.clients[0], "a", b"for a")
    assert [thread.outcome() for thread in threads] == [None, None]
    assert [thread.result for thread in threads] == [b"for a", b"for b"]
    consume = next(call for call in script.clients[0].calls if isinstance(call, basic.Consume))
    assert (consume.queue, consume.no_ack) == (name, True)


def test_a_reply_that_came_early_is_kept(script: ScriptedBroker, client: BlockingClient) -> None:
    """A reply that nobody waits for yet is there when somebody asks, once."""
    client.reply_queue()
    _deliver(script.clients[0], "a", b"early")
    _publish(client)
    assert client.wait_reply("a", 0.0) == b"early"
    assert client.wait_reply("a", 0.0) is None


def test_no_reply_in_time_is_none(script: ScriptedBroker, client: BlockingClient) -> None:
    """Waiting ends at the deadline; a forgotten reply is not given out."""
    assert client.wait_reply("a", SHORT_S) is None
    _deliver(script.clients[0], "a", b"late")
    _publish(client)
    client.forget_reply("a")
    assert client.wait_reply("a", 0.0) is None


def test_waiting_goes_on_over_a_lost_connection(script: ScriptedBroker, client: BlockingClient) -> None:
    """The reply queue outlives the connection: a new one consumes from it again and the reply arrives."""
    name = client.reply_queue()
    thread = _Thread(lambda: client.wait_reply("a", PATIENCE_S))
    script.clients[0].end()
    wait_until(lambda: len(script.clients) == 2 and script.clients[1].consumes, PATIENCE_S, "the queue to be consumed again")
    _deliver(script.clients[1], "a", b"after")
    assert thread.outcome() is None
    assert thread.result == b"after"
    assert client.reply_queue() == name


def test_waiting_goes_on_when_the_queue_is_deleted(script: ScriptedBroker, client: BlockingClient) -> None:
    """A consumer cancelled by the broker is made again."""
    client.reply_queue()
    one = script.clients[0]
    thread = _Thread(lambda: client.wait_reply("a", PATIENCE_S))
    consume = next(call for call in one.calls if isinstance(call, basic.Consume))
    one.calls.clear()
    one.send(2, basic.Cancel(consume.consumer_tag, no_wait=True))
    wait_until(lambda: one.consumes, PATIENCE_S, "the queue to be consumed again")
    _deliver(one, "a", b"after")
    assert thread.outcome() is None
    assert thread.result == b"after"


def test_waiting_without_a_broker_raises_at_the_deadline(script: ScriptedBroker, client: BlockingClient) -> None:
    """None would mean that there is no reply; without a broker nobody knows."""
    client.reply_queue()
    script.close()
    with pytest.raises(BrokerUnavailable, match="Connection refused"):
        client.wait_reply("a", SHORT_S)


# --------------------------------------------------------------------------------------------- connecting


def test_an_unreachable_broker_is_named() -> None:
    """All URLs are tried, and each is named without its password and with the system's reason."""
    client = BlockingClient(lambda: [_closed_port("one"), _closed_port("two")])
    with pytest.raises(BrokerUnavailable) as caught:
        _publish(client)
    text = str(caught.value)
    assert text.count("Connection refused") == 2
    assert "one:***@127.0.0.1" in text
    assert "two:***@127.0.0.1" in text
    assert "secret" not in text
    client.close()


def _closed_port(user: str) -> AMQPURL:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return parse_url(f"amqp://{user}:secret@127.0.0.1:{listening.getsockname()[1]}")


def test_the_next_url_is_used_when_one_fails(script: ScriptedBroker) -> None:
    """A round goes through the URLs until one answers."""
    client = BlockingClient(lambda: [_closed_port("one"), script.url])
    _publish(client)
    client.close()
    assert len(script.published) == 1


def test_urls_are_asked_for_again_at_each_connect(script: ScriptedBroker) -> None:
    """The local broker may come back on another port."""
    with ScriptedBroker() as second:
        urls = [script.url]
        client = BlockingClient(lambda: urls)
        _publish(client)
        urls[:] = [second.url]
        script.close()
        _await_something_to_read(client)
        _publish(client)
        client.close()
        assert len(second.published) == 1


def test_a_broker_that_does_not_answer_ends_with_the_connect_timeout() -> None:
    """Accepting a connection is not enough; the error comes within the connect timeout, not that of the publish."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = parse_url(f"amqp://127.0.0.1:{listening.getsockname()[1]}")
        client = BlockingClient(lambda: [url], connect_timeout_s=SHORT_S)
        with pytest.raises(BrokerUnavailable, match="did not open it in time"):
            _publish(client)
        client.close()


def test_a_server_that_speaks_something_else_is_named() -> None:
    """A web server answers at once, but not as a broker does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connected, _ = listening.accept()
            with connected:
                connected.recv(100)
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = _Thread(answer)
        client = BlockingClient(lambda: [parse_url(f"amqp://127.0.0.1:{listening.getsockname()[1]}")])
        with pytest.raises(BrokerUnavailable, match="does not speak AMQP 0-9-1"):
            _publish(client)
        assert server.outcome() is None
        client.close()


def test_errors_of_the_resolver_are_the_callers(script: ScriptedBroker) -> None:
    """What is wrong with the settings is not wrapped into something about brokers."""

    def resolve() -> list[AMQPURL]:
        raise ConfigurationError("the broker URL is empty")

    client = BlockingClient(resolve)
    with pytest.raises(ConfigurationError, match="the broker URL is empty"):
        _publish(client)
    client.close()


def _threads_waiting(client: BlockingClient) -> int:
    attempt = client._connector()._attempt
    assert attempt is not None
    return len(attempt.finished._cond._waiters)  # type: ignore[attr-defined]  # nothing public says who waits for an Event


def test_threads_share_the_failure_of_one_attempt() -> None:
    """Eight threads that need a broker that is not there do not wait for eight attempts one after the other."""
    attempts: list[int] = []
    url = _closed_port("one")

    def resolve() -> list[AMQPURL]:
        attempts.append(1)
        wait_until(lambda: _threads_waiting(producer) == 7, PATIENCE_S, "the others to wait")
        return [url]

    producer = BlockingClient(resolve)
    threads = [_Thread(lambda: _publish(producer)) for _ in range(8)]
    assert [thread.outcome() for thread in threads] == [BrokerUnavailable] * 8
    assert len(attempts) == 1
    producer.close()


# --------------------------------------------------------------------------------------------- the end


def test_close_says_goodbye_and_deletes_the_reply_queue(script: ScriptedBroker, client: BlockingClient) -> None:
    """The broker is left as it was found; a closed client refuses work, and closing again does nothing."""
    name = client.reply_queue()
    client.close()
    client.close()
    calls = script.clients[0].calls
    assert queue.Delete(name) in calls
    assert isinstance(calls[-1], connection.Close)
    with pytest.raises(LocalProtocolError, match="closed"):
        _publish(client)


def test_closing_an_unused_client_connects_to_nobody(script: ScriptedBroker, client: BlockingClient) -> None:
    """There is nothing to close."""
    client.close()
    assert script.clients == []


def test_close_ends_the_wait_of_other_threads(script: ScriptedBroker, client: BlockingClient) -> None:
    """Nobody waits for ever for a client that is gone."""
    arrived = threading.Event()
    script.on_publish = lambda one, message: arrived.set()
    publishing = _Thread(lambda: _publish(client))
    waiting = _Thread(lambda: client.wait_reply("a", PATIENCE_S))
    assert arrived.wait(PATIENCE_S)
    client.close()
    assert publishing.outcome() is PublishUnconfirmed
    assert waiting.outcome() is LocalProtocolError
