"""How many messages the worker asks for: the prefetch counts, followed to what the tasks' measured time makes of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from leveret.errors import LeveretError
from leveret.worker.intake import Intake
from leveret.worker.pace import Pace
from leveret.worker.prefetch import adaptive_counts, fixed_count

__all__ = ["Supply"]

logger = logging.getLogger("leveret.worker")

_LOOK_EVERY_S: Final = 0.1
# Fewer messages are asked for only when that has been right several times in succession: making and cancelling consumers
# costs a round trip each, and a measured time near a limit would do nothing else.
_SHRINK_AFTER: Final = 5


class Supply:
    """Holds what each queue's consumers should be, and brings the intake there."""

    def __init__(self, *, multiplier: int | None, slots: int, pace: Pace) -> None:
        self._multiplier = multiplier
        self._slots = slots
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._looked_s = 0.0
        self._shrinks_wanted = 0
        self._change: asyncio.Task[None] | None = None

    def counts(self) -> list[int]:
        """Return the prefetch counts of each queue's consumers, the first one's first."""
        if self._multiplier is not None:
            return [fixed_count(self._multiplier, self._slots)]
        return adaptive_counts(self._slots, self._pace)

    def look(self, intake: Intake | None) -> None:
        """See now and then whether the counts are still right; to be called whenever tasks have ended."""
        now_s = self._loop.time()
        if self._multiplier is not None or intake is None or now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        counts = self.counts()
        is_smaller = len(counts) < len(intake.counts)
        self._shrinks_wanted = self._shrinks_wanted + 1 if is_smaller else 0
        if self._shrinks_wanted >= _SHRINK_AFTER or len(counts) > len(intake.counts):
            self._shrinks_wanted = 0
            self._apply(intake, counts)

    def _apply(self, intake: Intake, counts: list[int]) -> None:
        if self._change is None or self._change.done():
            self._change = self._loop.create_task(self._set(intake, counts))

    async def _set(self, intake: Intake, counts: list[int]) -> None:
        try:
            await intake.set_counts(counts)
        except LeveretError as error:
            logger.debug("prefetch counts not changed: %s", error)  # the connection is gone; the next begins with the right ones
        else:
            logger.debug("prefetch counts per queue are now %s", counts)
