"""How many unacknowledged messages each queue's consumers may hold. PURE.

Per-consumer prefetch counts only, fixed when a consumer is made (``basic.qos`` before ``basic.consume``): RabbitMQ 4.3 treats
global QoS as per-consumer, and no broker changes the count of a living consumer. So the count grows by adding a consumer and
shrinks by cancelling one, whose unacknowledged deliveries stay valid.

Adaptive, the default: a queue starts with one consumer of one message per slot, so that nothing waits here behind a task
whose length is not known yet. While the tasks measured are short, consumers are added until the queue's deliveries cover
``COVER_S`` of work, but never beyond ``TRUST`` times the number of tasks measured: a few say little about the next. One long
task among the recent ones takes it back to the first consumer.

Limits: each queue has its own count, because consumers cannot share one; with several queues up to (queues - 1) x slots
messages may wait here. They go back to the broker at once on shutdown.
"""

from __future__ import annotations

from typing import Final

from leveret.worker.pace import Pace

__all__ = ["CONSUMERS_MAX", "COVER_S", "LONG_S", "PREFETCH_COUNT_MAX", "TRUST", "adaptive_counts", "fixed_count"]

PREFETCH_COUNT_MAX: Final = 1000
CONSUMERS_MAX: Final = 4
# The work that should be here or on its way: a round trip to the broker and back under load takes a few milliseconds.
COVER_S: Final = 0.02
# A task this long makes what waits behind it late in a way that someone would notice.
LONG_S: Final = 0.05
_STEP: Final = 8
TRUST: Final = 4
_RUNTIME_MIN_S: Final = 1e-5


def fixed_count(multiplier: int, slots: int) -> int:
    """Return the prefetch count of ``worker_prefetch_multiplier``, as in Celery; 0 is no limit."""
    return min(multiplier * slots, 65_535)  # prefetch-count is a short (AMQP 0-9-1, 1.7.3.3)


def adaptive_counts(slots: int, pace: Pace) -> list[int]:
    """Return the prefetch counts of the consumers one queue should have now, the first one's first.

    The first is always ``slots``; each further one multiplies the sum by at most eight, so the counts of a short list are the
    beginning of a longer one's and consumers only need to be added or cancelled at the end.
    """
    counts = [slots]
    if pace.mean_s is None or pace.longest_s >= LONG_S:
        return counts
    wanted = min(slots * (1 + COVER_S / max(pace.mean_s, _RUNTIME_MIN_S)), TRUST * pace.count)
    total = slots
    while total * _STEP <= wanted and total < PREFETCH_COUNT_MAX and len(counts) < CONSUMERS_MAX:
        step = min(total * (_STEP - 1), PREFETCH_COUNT_MAX - total)
        counts.append(step)
        total += step
    return counts
