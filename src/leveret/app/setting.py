"""What one setting is: a descriptor with a default, a line of documentation and a check, and the checks there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Generic, Literal, Protocol, TypeVar, overload

import msgspec

from leveret.amqp.topology import Queue
from leveret.amqp.uris import parse_urls
from leveret.errors import ConfigurationError

__all__ = [
    "LOCAL_URL",
    "RPC_URL",
    "SQLITE_PREFIX",
    "HasSettings",
    "Setting",
    "broker_url",
    "flag",
    "json_only",
    "name",
    "number",
    "priority",
    "queues",
    "result_backend",
    "routes",
    "seconds",
]

T = TypeVar("T")

LOCAL_URL: Final = "local://"
"""The broker of this user on this machine, found or started when it is needed."""

RPC_URL: Final = "rpc://"
SQLITE_PREFIX: Final = "sqlite:///"


class HasSettings(Protocol):
    """What a descriptor needs of the object it stands on: the values that were set, and the way to set more."""

    values: dict[str, object]

    def update(self, values: Mapping[str, object] | None = None, /) -> None:
        """Set several at once."""
        ...


class Setting(Generic[T]):
    """One setting; reading it gives the value that was set, or the default."""

    def __init__(self, default: T, check: Callable[[object], T], doc: str) -> None:
        self.default = default
        self.doc = doc
        self._check = check
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, settings: HasSettings, owner: type) -> T: ...
    def __get__(self, settings: HasSettings | None, owner: type) -> Setting[T] | T:
        if settings is None:
            return self
        return settings.values.get(self._name, self.default)  # type: ignore[return-value]  # only checked values get in

    def __set__(self, settings: HasSettings, value: T) -> None:
        settings.update({self._name: value})

    def checked(self, value: object) -> T:
        """Return the value as it is to be kept.

        Raises:
            ConfigurationError: it cannot be; the message names the setting and says what would do.

        """
        try:
            return self._check(value)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{self._name} cannot be {value!r}: {error}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._name}: {error}") from None


_POSITIVE: Final = Annotated[float, msgspec.Meta(gt=0, le=1_000_000_000)]
_NOT_NEGATIVE: Final = Annotated[float, msgspec.Meta(ge=0, le=1_000_000_000)]
_PRIORITY: Final = Annotated[int, msgspec.Meta(ge=0, le=255)]
_NAME: Final = Annotated[str, msgspec.Meta(min_length=1)]


def flag(value: object) -> bool:
    """Take True or False."""
    return msgspec.convert(value, bool)


def seconds(value: object) -> float:
    """Take a number above zero."""
    converted: float = msgspec.convert(value, _POSITIVE)
    return converted


def seconds_or_zero(value: object) -> float:
    """Take a number from zero."""
    converted: float = msgspec.convert(value, _NOT_NEGATIVE)
    return converted


def priority(value: object) -> int:
    """Take an octet."""
    converted: int = msgspec.convert(value, _PRIORITY)
    return converted


def name(value: object) -> str:
    """Take text that is not empty."""
    converted: str = msgspec.convert(value, _NAME)
    return converted


def json_only(value: object) -> Literal["json"]:
    """Take the one serializer there is."""
    converted: Literal["json"] = msgspec.convert(value, Literal["json"])
    return converted


def number(*, least: int, most: int = 2**31 - 1) -> Callable[[object], int]:
    """Return a check for whole numbers within limits."""

    def check(value: object) -> int:
        converted = msgspec.convert(value, int)
        if not least <= converted <= most:
            raise ConfigurationError(f"a whole number from {least} to {most} is expected, not {value!r}")
        return converted

    return check


def or_none(check: Callable[[object], T]) -> Callable[[object], T | None]:
    """Return a check that also takes None."""

    def check_or_none(value: object) -> T | None:
        return None if value is None else check(value)

    return check_or_none


def broker_url(value: object) -> str:
    """Take ``local://`` or the URLs of AMQP brokers."""
    text = msgspec.convert(value, str)
    if text != LOCAL_URL and not text.startswith(("amqp://", "amqps://")):
        raise ConfigurationError(
            f"local://, or a URL that begins with amqp:// or amqps://, is expected, not {text.split(':')[0]!r}..."
        )
    if text != LOCAL_URL:
        parse_urls(text)
    return text


def result_backend(value: object) -> str:
    """Take the URL of a result store there is."""
    text = msgspec.convert(value, str)
    if text == RPC_URL or (text.startswith(SQLITE_PREFIX) and text != SQLITE_PREFIX):
        return text
    raise ConfigurationError(f"there is no result store {text!r}; there are rpc:// (a reply queue) and sqlite:///path/to/file")


def queues(value: object) -> Sequence[Queue]:
    """Take a list of queues, each name once."""
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"a list of Queue is expected, not {value!r}")
    by_name: dict[str, Queue] = {}
    for queue in value:
        if not isinstance(queue, Queue):
            raise ConfigurationError(
                f"a list of Queue is expected, but {queue!r} is in it; a name alone is Queue({str(queue)!r})"
            )
        if queue.name in by_name:
            raise ConfigurationError(f"the queue {queue.name!r} is in the list twice")
        by_name[queue.name] = queue
    return tuple(by_name.values())


def routes(value: object) -> Mapping[str, str]:
    """Take ``{"shop.*": "orders"}``, or Celery's ``{"shop.*": {"queue": "orders"}}``."""
    checked: dict[str, str] = {}
    for pattern, target in msgspec.convert(value, dict[str, object]).items():
        queue = target["queue"] if isinstance(target, dict) and target.keys() == {"queue"} else target
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"the route of {pattern!r} must be a queue's name or {{'queue': name}}, not {target!r}")
        checked[pattern] = queue
    return checked
