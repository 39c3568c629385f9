"""When a failed task runs again, and when it does not: a pure function of policy, error, count and a random number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from leveret.errors import ConfigurationError

__all__ = ["CELERY_MAX", "CELERY_RETRY_DELAY_S", "NO_RETRY", "RetryPolicy", "celery_policy"]

CELERY_MAX: Final = 3
CELERY_RETRY_DELAY_S: Final = 180.0

_EXPONENT_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, on which exceptions and after which delays a task is tried again.

    The delay before retry n (n = 0 for the first) is ``backoff_s * backoff_factor ** n``, at most ``delay_max_s``; with
    ``jitter`` it is drawn evenly between zero and that, so that tasks that failed together do not come back together.

    Raises:
        ConfigurationError: a value that cannot be.

    """

    max: int | None = 3
    """Retries after the first try; None: without end."""
    on: tuple[type[BaseException], ...] = (Exception,)
    """Exceptions that are retried by themselves; none: only when the task asks by ``self.retry()``."""
    never_on: tuple[type[BaseException], ...] = ()
    """Exceptions that are not, though ``on`` has a base class of theirs."""
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    jitter: bool = True
    delay_max_s: float = 600.0

    def __post_init__(self) -> None:
        """Check every field; one exception class may be given without its tuple."""
        object.__setattr__(self, "on", _exception_classes("on", self.on))
        object.__setattr__(self, "never_on", _exception_classes("never_on", self.never_on))
        if self.max is not None and (not _is_number(self.max, least=0) or self.max != int(self.max)):
            raise ConfigurationError(f"RetryPolicy: max must be a whole number from 0, or None for no limit, not {self.max!r}")
        for name, value, least in (
            ("backoff_s", self.backoff_s, 0),
            ("backoff_factor", self.backoff_factor, 1),
            ("delay_max_s", self.delay_max_s, 0),
        ):
            if not _is_number(value, least=least):
                raise ConfigurationError(f"RetryPolicy: {name} must be a number from {least}, not {value!r}")

    def wants(self, error: BaseException) -> bool:
        """Tell whether this error is retried by itself, the count left aside."""
        return isinstance(error, self.on) and not isinstance(error, self.never_on)

    def allows(self, retries: int) -> bool:
        """Tell whether one more retry is left after ``retries`` of them."""
        return self.max is None or retries < self.max

    def delay_s(self, retries: int, chance: float) -> float:
        """Return the seconds to wait before the next try, after ``retries`` earlier retries.

        ``chance`` is a random number from 0 to 1; without jitter it does not matter.
        """
        # Beyond the cap every power is the same delay; the cap on the exponent keeps floats from overflowing.
        delay_s = min(self.delay_max_s, self.backoff_s * self.backoff_factor ** min(retries, _EXPONENT_MAX))
        return delay_s * chance if self.jitter else delay_s


def celery_policy(
    *,
    max_retries: int | None,
    autoretry_for: tuple[type[BaseException], ...],
    dont_autoretry_for: tuple[type[BaseException], ...],
    retry_backoff: bool | float,
    retry_backoff_max: float,
    retry_jitter: bool,
    default_retry_delay_s: float,
) -> RetryPolicy:
    """Build the policy that Celery's options mean.

    ``retry_backoff`` True counts from one second, a number from that many; False waits ``default_retry_delay_s`` each time,
    without jitter.
    """
    on, never_on = autoretry_for, dont_autoretry_for
    if not retry_backoff:
        delay_s = default_retry_delay_s
        return RetryPolicy(max_retries, on, never_on, backoff_s=delay_s, backoff_factor=1.0, jitter=False, delay_max_s=delay_s)
    return RetryPolicy(
        max_retries, on, never_on, backoff_s=float(retry_backoff), jitter=retry_jitter, delay_max_s=retry_backoff_max
    )


def _is_number(value: object, *, least: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def _exception_classes(field: str, value: object) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, list | tuple) else (value,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ConfigurationError(f"RetryPolicy: {field} must be exception classes, not {one!r}")
    return classes


NO_RETRY: Final = RetryPolicy(max=CELERY_MAX, on=(), backoff_s=CELERY_RETRY_DELAY_S, backoff_factor=1.0, jitter=False)
"""What a task has that asked for nothing: no retries by themselves, and Celery's three after 180 s for ``self.retry()``."""
