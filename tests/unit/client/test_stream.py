"""The engine on an asyncio transport: writes per turn, back-pressure, the timer, the end."""

from __future__ import annotations

import asyncio

import pytest

from leveret.amqp.connection import LOGIN, OPENED, Connection, Event
from leveret.amqp.frames import HEARTBEAT_FRAME, ack_frame
from leveret.amqp.methods import channel
from leveret.client.stream import Stream
from leveret.errors import BrokerUnavailable, LeveretError, RemoteProtocolError


class _Options:
    """A socket of which only options are set."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        pass


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.aborted = False
        self.unsent = 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return _Options()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class _World:
    """A stream with a client's engine, and the server's engine at the other end."""

    def __init__(self, *, heartbeat_s: int = 60) -> None:
        self.events: list[Event] = []
        self.ends: list[LeveretError | None] = []
        self.engine = Connection.client(heartbeat_s=heartbeat_s)
        self.server = Connection.server({}, heartbeat_s=heartbeat_s)
        self.server.start(0.0)
        self.transport = _Transport()
        self.before_write: list[bytes] = []
        self.stream = Stream(
            self.engine, peer="the broker", on_event=self.events.append, on_closed=self.ends.append, before_write=self._add
        )
        self.stream.connection_made(self.transport)

    async def settle(self) -> None:
        """Pass bytes in both directions until there are none."""
        for _ in range(10):
            await asyncio.sleep(0)  # one turn of the loop: what was queued in the last one is written in this
            for data in self.take_writes():
                for event in self.server.receive_data(data, 0.0):
                    if event[0] == LOGIN:
                        self.server.accept_login()
                    elif event[0] == OPENED:
                        self.server.open_ok()
            if answer := self.server.data_to_send():
                self.stream.data_received(answer)

    def take_writes(self) -> list[bytes]:
        writes, self.transport.writes = self.transport.writes, []
        return writes

    def _add(self) -> None:
        for data in self.before_write:
            self.engine.write(data)
        self.before_write.clear()


async def test_all_of_one_turn_leaves_in_one_write() -> None:
    """Whatever is queued while the loop runs its callbacks is written once, what ``before_write`` adds included."""
    world = _World()
    await world.settle()
    world.engine.send(1, channel.Open())
    world.stream.request_flush()
    world.engine.write(b"frames")
    world.stream.request_flush()
    world.before_write.append(b"acks")
    assert world.transport.writes == []
    await asyncio.sleep(0)
    assert len(world.transport.writes) == 1
    assert world.transport.writes[0].endswith(b"framesacks")
    world.stream.abort(BrokerUnavailable("the test is over"))


async def test_nothing_is_written_while_the_peer_is_behind() -> None:
    """Between pause and resume everything is kept; then it leaves at once, in order."""
    world = _World()
    await world.settle()
    world.stream.pause_writing()
    waiting = asyncio.ensure_future(world.stream.writable())
    for data in (b"one", b"two"):
        world.engine.write(data)
        world.stream.request_flush()
        await asyncio.sleep(0)
    assert world.transport.writes == []
    assert not waiting.done()
    world.stream.resume_writing()
    assert world.transport.writes == [b"onetwo"]
    await waiting
    world.stream.abort(BrokerUnavailable("the test is over"))


async def test_heartbeats_are_sent_by_the_timer() -> None:
    """With nothing else to say a heartbeat leaves after half the timeout."""
    world = _World(heartbeat_s=1)
    await world.settle()
    arrived = asyncio.Event()
    keep = world.transport.write

    def write(data: bytes | bytearray | memoryview) -> None:
        keep(data)
        arrived.set()

    world.transport.write = write  # type: ignore[method-assign]  # to be told of it
    await asyncio.wait_for(arrived.wait(), 5.0)
    assert world.transport.writes == [HEARTBEAT_FRAME]
    world.stream.abort(BrokerUnavailable("the test is over"))


async def test_a_silent_peer_is_given_up() -> None:
    """Two looks without a byte and the connection is over, with the reason, once."""
    world = _World(heartbeat_s=1)
    await world.settle()
    over = asyncio.Event()

    def end(error: LeveretError | None) -> None:
        world.ends.append(error)
        over.set()

    world.stream._on_closed = end
    await asyncio.wait_for(over.wait(), 5.0)
    world.stream.connection_lost(None)
    assert len(world.ends) == 1
    assert "missed heartbeats" in str(world.ends[0])
    assert world.transport.closed


@pytest.mark.parametrize("cause", [ConnectionResetError(104, "Connection reset by peer"), None])
async def test_a_lost_connection_is_reported_once(cause: Exception | None) -> None:
    """However it ends, ``on_closed`` is called once and says why."""
    world = _World()
    await world.settle()
    world.stream.connection_lost(cause)
    world.stream.connection_lost(cause)
    world.stream.abort(BrokerUnavailable("again"))
    assert len(world.ends) == 1
    assert isinstance(world.ends[0], BrokerUnavailable)
    assert ("reset by peer" if cause else "connection to the broker was lost") in str(world.ends[0])


async def test_an_answer_to_nothing_ends_the_connection() -> None:
    """An error of the protocol that only the books notice closes the connection, too."""
    world = _World()
    await world.settle()

    world.engine.send(1, channel.Open())
    world.stream.request_flush()
    await world.settle()

    def refuse(event: Event) -> None:
        raise RemoteProtocolError("a confirm for nothing")

    world.stream._on_event = refuse
    world.stream.data_received(ack_frame(1, 1))
    assert "a confirm for nothing" in str(world.ends[0])


async def test_a_peer_that_does_not_read_is_not_waited_for() -> None:
    """Closing politely would wait until everything is written, which may be never."""
    world = _World()
    await world.settle()
    world.transport.unsent = 1000
    world.stream.abort(BrokerUnavailable("enough"))
    assert world.transport.aborted
