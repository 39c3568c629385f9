"""When to send a heartbeat and when the peer counts as dead (AMQP 0-9-1, 4.2.7; RabbitMQ's ``rabbit_heartbeat``).

With a timeout of T, for either role::

    sending      ──────── T/2 without a byte sent ──────► send one
    receiving    ──┬── T ──┬── T ──┬──                    a look every T; two looks in a row
                 look    look    look                     without a byte received: dead

so a silent peer is given up between 2 T and 3 T after its last byte. Any byte counts, not only heartbeats.
"""

from __future__ import annotations

from typing import Final

__all__ = ["HeartbeatTimer"]

_IDLE_LOOKS_MAX: Final = 2


class HeartbeatTimer:
    """The arithmetic of one connection's heartbeats; the connection sets ``received`` and ``sent_s``, on its hot path."""

    __slots__ = ("_idle_looks", "_look_at_s", "_reading", "_timeout_s", "received", "sent_s")

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self.received = False
        """Whether bytes came since the last look."""
        self.sent_s = now_s
        """When bytes were last sent; too early is harmless, it only costs a heartbeat."""
        self._timeout_s = timeout_s
        self._look_at_s = now_s + timeout_s
        self._idle_looks = 0
        self._reading = True

    def set_reading(self, reading: bool, now_s: float) -> None:
        """Stop or resume looking: while we do not read, the peer's silence means nothing."""
        if reading and not self._reading:
            self._idle_looks = 0
            self._look_at_s = now_s + self._timeout_s
        self._reading = reading

    def next_deadline_s(self) -> float:
        """Return when ``tick`` has something to do."""
        send_at_s = self.sent_s + self._timeout_s / 2
        return min(send_at_s, self._look_at_s) if self._reading else send_at_s

    def tick(self, now_s: float) -> tuple[bool, bool]:
        """Return whether a heartbeat is to be sent, and whether the peer is dead.

        However late it is called, one call is one look: a machine that slept does not give up a peer that is alive.
        """
        if self._reading and now_s >= self._look_at_s:
            self._look_at_s = now_s + self._timeout_s
            self._idle_looks = 0 if self.received else self._idle_looks + 1
            self.received = False
            if self._idle_looks >= _IDLE_LOOKS_MAX:
                return False, True
        if now_s >= self.sent_s + self._timeout_s / 2:
            self.sent_s = now_s
            return True, False
        return False, False
