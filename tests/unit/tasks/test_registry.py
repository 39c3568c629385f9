"""The registry of tasks, the signals and the outcomes."""

from __future__ import annotations

import msgspec
import pytest

from leveret.errors import DuplicateTask, NotRegistered
from leveret.tasks.outcomes import (
    Failed,
    Ignored,
    Lost,
    NotDue,
    Outcome,
    Rejected,
    RetryAt,
    Revoked,
    Succeeded,
    TimedOut,
    Unrunnable,
)
from leveret.tasks.registry import Registry
from leveret.tasks.signals import Ignore, Reject, Retry


def test_tasks_are_found_by_name() -> None:
    """It is a mapping in the order of definition."""
    registry = Registry[int]("shop")
    registry.add("shop.add", 1, place="shop.py:1")
    registry.add("shop.mul", 2, place="shop.py:5")
    assert dict(registry) == {"shop.add": 1, "shop.mul": 2}
    assert registry.find("shop.mul") == 2
    assert len(registry) == 2


def test_a_name_is_never_given_twice() -> None:
    """The error says where both stand and how to get out."""
    registry = Registry[int]("shop")
    registry.add("shop.add", 1, place="shop.py:1")
    with pytest.raises(DuplicateTask, match=r"shop\.py:1.*shop\.py:9.*name="):
        registry.add("shop.add", 2, place="shop.py:9")
    assert registry.find("shop.add") == 1


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A typo is shown its correction."""
    registry = Registry[int]("shop")
    registry.add("shop.add", 1, place="shop.py:1")
    with pytest.raises(NotRegistered, match=r"'shop' has no task named 'shop\.ad'; did you mean 'shop\.add'\?"):
        registry.find("shop.ad")
    with pytest.raises(NotRegistered, match="is the module that defines it imported where the app is"):
        registry.find("zzz")


@pytest.mark.parametrize("signal", [Retry(), Reject("no"), Ignore()])
def test_signals_are_not_exceptions(signal: BaseException) -> None:
    """A task's own ``except Exception`` does not swallow them."""
    assert not isinstance(signal, Exception)


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded(),
        Failed("ValueError", "no"),
        RetryAt(1.5, 2, "ValueError", "no"),
        NotDue(3.0),
        Rejected(requeue=True, reason=""),
        Ignored(),
        TimedOut(10.0),
        Revoked("expired"),
        Unrunnable("NotRegistered", "no"),
        Lost(3, "signal 9"),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_outcome_travels_between_processes(outcome: Outcome) -> None:
    """Encoded with its tag, each comes back as what it was."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=Outcome) == outcome
