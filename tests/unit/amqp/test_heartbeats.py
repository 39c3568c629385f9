"""Heartbeats: the arithmetic alone, without a connection."""

from __future__ import annotations

import pytest

from leveret.amqp.heartbeats import HeartbeatTimer


def test_a_heartbeat_is_due_after_half_the_timeout_without_sending() -> None:
    """RabbitMQ looks every timeout/2; so the peer, which waits for the whole timeout, always hears in time."""
    timer = HeartbeatTimer(10, now_s=100.0)
    assert timer.next_deadline_s() == 105.0
    assert timer.tick(104.9) == (False, False)
    assert timer.tick(105.0) == (True, False)
    assert timer.tick(105.1) == (False, False)
    timer.sent_s = 107.0
    assert timer.tick(110.0) == (False, False)
    assert timer.tick(112.0) == (True, False)


def test_a_silent_peer_is_dead_between_two_and_three_timeouts() -> None:
    """Two looks in a row, a timeout apart, that find no new bytes."""
    timer = HeartbeatTimer(10, now_s=0.0)
    timer.received = True
    dead_at_s = next(now_s for now_s in range(1, 100) if timer.tick(float(now_s))[1])
    assert dead_at_s == 30


@pytest.mark.parametrize("last_byte_s", [0.5, 5.0, 9.5])
def test_the_last_byte_counts_wherever_it_falls(last_byte_s: float) -> None:
    """Death comes between 2 and 3 timeouts after the last byte."""
    timer = HeartbeatTimer(10, now_s=0.0)
    now_s = 0.0
    while not timer.tick(now_s)[1]:
        now_s += 0.5
        if now_s == last_byte_s:
            timer.received = True
    assert 20 <= now_s - last_byte_s <= 30


def test_any_byte_keeps_the_peer_alive() -> None:
    """One byte per timeout is enough for ever."""
    timer = HeartbeatTimer(1, now_s=0.0)
    for second in range(1, 50):
        timer.received = True
        assert not timer.tick(float(second))[1]


def test_a_machine_that_slept_does_not_give_up_its_peer() -> None:
    """One call is one look, however late: the bytes of the time asleep may still be in the socket's buffer."""
    timer = HeartbeatTimer(10, now_s=0.0)
    assert timer.tick(10_000.0) == (True, False)
    timer.received = True
    assert not timer.tick(10_010.0)[1]


def test_silence_means_nothing_while_nobody_reads() -> None:
    """With reading stopped there are no looks; heartbeats are still sent, and looking starts afresh."""
    timer = HeartbeatTimer(10, now_s=0.0)
    timer.set_reading(False, 1.0)
    for second in range(5, 500, 5):
        assert timer.tick(float(second)) == (True, False)
        assert timer.next_deadline_s() == second + 5.0
    timer.set_reading(True, 500.0)
    assert not timer.tick(510.0)[1]
    assert timer.tick(520.0)[1]
