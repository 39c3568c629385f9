"""The acknowledgements of one channel, gathered over a turn of the event loop and written in as few frames as possible.

One basic.ack with ``multiple`` settles everything up to its tag. It may be used only if all of that has been settled by us,
so the lowest tag still in somebody's hands is the limit::

    tags        1  2  3  4  5  6  7  8            settled earlier: 2    acknowledged this turn: 1 3 4 6 8
    written     ◄── multiple 4 ──┤   6     8      (5 is still held)

RabbitMQ refuses a tag that is not outstanding (406 unknown delivery tag), so the one with ``multiple`` must be of this turn.
"""

from __future__ import annotations

from leveret.amqp.frames import ack_frame, nack_frame

__all__ = ["Settlements"]


class Settlements:
    """What of one channel's deliveries has been settled, and the frames still to be written."""

    __slots__ = ("_acknowledged", "_channel", "_frames", "_lowest_held", "_settled")

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._lowest_held = 1
        self._settled: set[int] = set()
        self._acknowledged: list[int] = []
        self._frames: list[bytes] = []

    def needs_none(self, delivery_tag: int) -> None:
        """Note a delivery without acknowledgement (``no_ack``): its tag is used up."""
        if delivery_tag == self._lowest_held:
            self._lowest_held += 1
        else:
            self._settled.add(delivery_tag)

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge one delivery."""
        self._acknowledged.append(delivery_tag)
        self._settled.add(delivery_tag)

    def ack_up_to(self, delivery_tag: int) -> None:
        """Acknowledge a delivery and all before it that are still held."""
        self._gather()
        self._frames.append(ack_frame(self._channel, delivery_tag, multiple=True))
        self._settle_up_to(delivery_tag)

    def nack(self, delivery_tag: int, *, requeue: bool, multiple: bool) -> None:
        """Refuse one delivery, or with ``multiple`` all up to it that are still held."""
        self._gather()
        self._frames.append(nack_frame(self._channel, delivery_tag, multiple=multiple, requeue=requeue))
        if multiple:
            self._settle_up_to(delivery_tag)
        else:
            self._settled.add(delivery_tag)

    def take_frames(self) -> bytes:
        """Return all that is to be written, in an order the broker accepts."""
        self._gather()
        data = b"".join(self._frames)
        self._frames.clear()
        return data

    def _gather(self) -> None:
        """Turn this turn's acknowledgements into frames."""
        lowest, settled = self._lowest_held, self._settled
        while lowest in settled:
            settled.remove(lowest)
            lowest += 1
        self._lowest_held = lowest
        below = [tag for tag in self._acknowledged if tag < lowest]
        if below:
            self._frames.append(ack_frame(self._channel, max(below), multiple=len(below) > 1))
        self._frames += [ack_frame(self._channel, tag) for tag in self._acknowledged if tag >= lowest]
        self._acknowledged.clear()

    def _settle_up_to(self, delivery_tag: int) -> None:
        self._lowest_held = max(self._lowest_held, delivery_tag + 1)
        self._settled = {tag for tag in self._settled if tag > delivery_tag}
