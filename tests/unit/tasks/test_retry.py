"""The retry policy: who is retried, how often, when."""

from __future__ import annotations

import pytest

from leveret.errors import ConfigurationError
from leveret.tasks.options import TaskOptions
from leveret.tasks.retry import NO_RETRY, RetryPolicy, celery_policy


def policy_of(**changes: object) -> RetryPolicy:
    """Return what Celery's options mean, those not given having Celery's defaults."""
    options: dict[str, object] = {
        "max_retries": 3,
        "autoretry_for": (),
        "dont_autoretry_for": (),
        "retry_backoff": False,
        "retry_backoff_max": 600.0,
        "retry_jitter": True,
        "default_retry_delay_s": 180.0,
    }
    return celery_policy(**{**options, **changes})  # type: ignore[arg-type]  # the names are checked by the call itself


def test_delays_grow_to_the_limit() -> None:
    """Without jitter the delay doubles from backoff_s on and stays at delay_max_s, for any count."""
    policy = RetryPolicy(max=None, backoff_s=0.5, jitter=False, delay_max_s=10)
    assert [policy.delay_s(retries, 0.3) for retries in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert policy.delay_s(10**9, 0.3) == 10


def test_jitter_spreads_evenly_from_zero() -> None:
    """With jitter the delay is the drawn share of the one without."""
    policy = RetryPolicy(backoff_s=8)
    assert [policy.delay_s(0, chance) for chance in (0.0, 0.25, 1.0)] == [0, 2, 8]


def test_the_limit_counts_retries_after_the_first_try() -> None:
    """max=2 allows a third try and not a fourth; None never ends; 0 allows none."""
    assert [RetryPolicy(max=2).allows(retries) for retries in range(4)] == [True, True, False, False]
    assert RetryPolicy(max=None).allows(10**6)
    assert not RetryPolicy(max=0).allows(0)


def test_only_the_named_exceptions_are_retried() -> None:
    """Subclasses count, exceptions to the rule go before it, and signals of the interpreter are not Exceptions."""
    policy = RetryPolicy(on=(OSError,), never_on=(FileNotFoundError,))
    assert policy.wants(ConnectionResetError())
    assert not policy.wants(FileNotFoundError())
    assert not policy.wants(ValueError())
    assert not RetryPolicy().wants(SystemExit())
    assert RetryPolicy(on=OSError).on == (OSError,)  # type: ignore[arg-type]  # one class alone is forgiven
    assert not NO_RETRY.wants(ValueError())


def test_celerys_words_mean_what_they_mean_there() -> None:
    """retry_backoff=True counts 1, 2, 4 s up to retry_backoff_max; without it every delay is default_retry_delay."""
    backoff = policy_of(autoretry_for=(OSError,), retry_backoff=True, retry_jitter=False, retry_backoff_max=5)
    assert [backoff.delay_s(retries, 1.0) for retries in range(4)] == [1, 2, 4, 5]
    assert policy_of(retry_backoff=5, retry_jitter=False).delay_s(1, 1.0) == 10
    plain = policy_of(default_retry_delay_s=1000.0)
    assert [plain.delay_s(retries, 0.5) for retries in range(2)] == [1000, 1000]
    assert policy_of(max_retries=None).allows(10**6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max": -1},
        {"max": 1.5},
        {"max": True},
        {"backoff_s": -1},
        {"backoff_factor": 0.5},
        {"delay_max_s": float("nan")},
        {"on": (3,)},
        {"on": ("OSError",)},
        {"never_on": int},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    """The error names the field and what it takes."""
    with pytest.raises(ConfigurationError, match=f"RetryPolicy: {next(iter(wrong))} must be"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # the point of the test


def test_the_apps_delay_counts_where_the_task_has_none() -> None:
    """task_default_retry_delay replaces the delay of a task that asked for none of its own."""
    assert TaskOptions().policy(default_delay_s=7).delay_s(0, 1.0) == 7
    own = TaskOptions(retry=RetryPolicy(backoff_s=2, jitter=False), has_own_delay=True)
    assert own.policy(default_delay_s=7).delay_s(0, 1.0) == 2


@pytest.mark.parametrize("priority", [-1, 256, 1.0, True, "5"])
def test_a_priority_that_cannot_be_sent_is_refused(priority: object) -> None:
    """The property is an octet."""
    with pytest.raises(ConfigurationError, match="from 0 to 255"):
        TaskOptions(priority=priority)  # type: ignore[arg-type]  # the point of the test
