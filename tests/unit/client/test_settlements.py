"""Joining acknowledgements: a model of the broker's side checks that each delivery is settled as it was meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.connection import ACK, METHOD, OPENED, Connection
from leveret.amqp.frames import ack_frame, frame, nack_frame
from leveret.amqp.methods import channel, connection
from leveret.client.settlements import Settlements

CHANNEL = 3


def _written(*tags: int, settlements: Settlements | None = None) -> bytes:
    settlements = settlements or Settlements(CHANNEL)
    for tag in tags:
        settlements.ack(tag)
    return settlements.take_frames()


def test_acks_without_a_gap_become_one() -> None:
    """When everything up to a tag is settled, one basic.ack with multiple says so."""
    assert _written(1, 2, 3) == ack_frame(CHANNEL, 3, multiple=True)
    assert _written(3, 1, 2) == ack_frame(CHANNEL, 3, multiple=True)


def test_a_single_ack_is_single() -> None:
    """One acknowledgement needs no multiple."""
    assert _written(1) == ack_frame(CHANNEL, 1)


def test_acks_above_a_delivery_still_held_are_single() -> None:
    """A delivery that somebody works on must not be acknowledged with those around it."""
    assert _written(2, 3) == ack_frame(CHANNEL, 2) + ack_frame(CHANNEL, 3)
    assert _written(1, 2, 4) == ack_frame(CHANNEL, 2, multiple=True) + ack_frame(CHANNEL, 4)


def test_what_was_settled_before_closes_the_gap() -> None:
    """Tags settled in earlier turns count, but the frame names a tag of this turn: RabbitMQ refuses any other."""
    settlements = Settlements(CHANNEL)
    _written(2, 4, settlements=settlements)
    assert _written(1, 3, settlements=settlements) == ack_frame(CHANNEL, 3, multiple=True)
    assert _written(5, settlements=settlements) == ack_frame(CHANNEL, 5)


def test_a_refused_delivery_is_written_before_the_acks_after_it() -> None:
    """basic.nack keeps its place, so that no multiple acknowledges what was refused."""
    settlements = Settlements(CHANNEL)
    settlements.ack(1)
    settlements.nack(2, requeue=True, multiple=False)
    settlements.ack(3)
    settlements.ack(4)
    expected = ack_frame(CHANNEL, 1) + nack_frame(CHANNEL, 2, requeue=True) + ack_frame(CHANNEL, 4, multiple=True)
    assert settlements.take_frames() == expected


def test_an_explicit_multiple_settles_what_is_before_it() -> None:
    """An acknowledgement of everything up to a tag is passed on, and counts as all of them."""
    settlements = Settlements(CHANNEL)
    settlements.ack_up_to(3)
    assert settlements.take_frames() == ack_frame(CHANNEL, 3, multiple=True)
    assert _written(4, 5, settlements=settlements) == ack_frame(CHANNEL, 5, multiple=True)
    settlements.nack(7, requeue=False, multiple=True)
    assert settlements.take_frames() == nack_frame(CHANNEL, 7, multiple=True)
    assert _written(8, 9, settlements=settlements) == ack_frame(CHANNEL, 9, multiple=True)


def test_deliveries_without_acknowledgement_leave_no_gap() -> None:
    """A consumer that needs no acknowledgements uses up tags of the same channel."""
    settlements = Settlements(CHANNEL)
    settlements.needs_none(1)
    settlements.needs_none(3)
    assert _written(2, 4, settlements=settlements) == ack_frame(CHANNEL, 4, multiple=True)


def test_nothing_is_written_twice() -> None:
    """Frames are given out once."""
    settlements = Settlements(CHANNEL)
    _written(1, settlements=settlements)
    assert settlements.take_frames() == b""


class _Broker:
    """Unacknowledged deliveries as RabbitMQ keeps them: a tag that is not outstanding is refused."""

    def __init__(self, count: int) -> None:
        self.outstanding = set(range(1, count + 1))
        self.outcomes: dict[int, str] = {}
        self._engine = Connection.server({}, mechanisms=["PLAIN"])
        client = Connection.client()
        client.start(0.0)
        self._engine.start(0.0)
        while not client.is_open:
            for event in self._engine.receive_data(client.data_to_send(), 0.0):
                if event[0] == OPENED:
                    self._engine.open_ok()
                else:
                    self._engine.accept_login()
            for _ in client.receive_data(self._engine.data_to_send(), 0.0):
                pass
        self.take(frame(1, CHANNEL, channel.Open().encode()))

    def take(self, data: bytes) -> None:
        for event in self._engine.receive_data(data, 0.0) if data else ():
            if event[0] == METHOD:
                assert not isinstance(event[2], connection.Close)
            elif event[0] == ACK:
                _, _, tag, kind = event
                assert tag in self.outstanding, f"406 unknown delivery tag {tag}"
                settled = {one for one in self.outstanding if one <= tag} if kind & 1 else {tag}
                self.outstanding -= settled
                self.outcomes.update(dict.fromkeys(settled, "ack" if not kind & 2 else "requeue" if kind & 4 else "reject"))


@given(
    st.permutations(range(1, 16)),
    st.lists(st.sampled_from(["ack", "requeue", "reject", "hold"]), min_size=15, max_size=15),
    st.sets(st.integers(min_value=0, max_value=14)),
)
def test_every_delivery_is_settled_as_it_was_meant(order: list[int], wishes: list[str], turns_end: set[int]) -> None:
    """Whatever the order, the mixture and the turns: each delivery ends as its owner said, and those held stay unsettled."""
    broker = _Broker(15)
    settlements = Settlements(CHANNEL)
    meant = {}
    for step, (tag, wish) in enumerate(zip(order, wishes, strict=True)):
        if wish == "ack":
            settlements.ack(tag)
        elif wish != "hold":
            settlements.nack(tag, requeue=wish == "requeue", multiple=False)
        if wish != "hold":
            meant[tag] = wish
        if step in turns_end:
            broker.take(settlements.take_frames())
            assert broker.outcomes == meant
    broker.take(settlements.take_frames())
    assert broker.outcomes == meant
