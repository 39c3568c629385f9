"""When and where to connect again after a failure; pure, so that the caller does the waiting and the drawing of lots.

One round tries every URL once, beginning after the one that was lost; rounds are ``backoff_delays`` apart::

    lost B of A;B;C ── C ── A ── B ── 0.1 s … ── C ── A ── B ── 0.2 s … ── … ── 15 to 30 s ── …
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from leveret.amqp.uris import AMQPURL
from leveret.errors import AccessRefused, BrokerUnavailable, NotAllowed, RemoteProtocolError

__all__ = [
    "BACKOFF_FACTOR",
    "DELAY_FIRST_S",
    "DELAY_MAX_S",
    "all_unavailable",
    "backoff_delays",
    "reason",
    "rotated",
    "unavailable",
]

DELAY_FIRST_S: Final = 0.1
DELAY_MAX_S: Final = 30.0
BACKOFF_FACTOR: Final = 2.0

_SAID_FIRST: Final = "cannot connect to the broker: "


def backoff_delays(
    random: Callable[[], float],
    *,
    first_s: float = DELAY_FIRST_S,
    factor: float = BACKOFF_FACTOR,
    delay_max_s: float = DELAY_MAX_S,
) -> Iterator[float]:
    """Yield without end the seconds to wait between two rounds: growing up to a limit, each cut by up to a half.

    ``random`` gives numbers from 0 (included) to 1, as ``random.random``. The cut keeps the clients of a broker that came back
    from arriving all at once.
    """
    delay_s = first_s
    while True:
        yield min(delay_s, delay_max_s) * (1.0 - random() / 2.0)
        delay_s = min(delay_s * factor, delay_max_s)


def rotated(urls: Sequence[AMQPURL], lost: AMQPURL | None) -> list[AMQPURL]:
    """Return the URLs of one round: in the order given, but beginning after the one whose connection was lost."""
    if lost not in urls:
        return list(urls)
    start = urls.index(lost) + 1
    return [*urls[start:], *urls[:start]]


def unavailable(failures: Sequence[tuple[AMQPURL, Exception]]) -> BrokerUnavailable:
    """Return the error of a round in which every URL failed: each is named, without its password, with reason and advice."""
    tried = (
        f"{text if url.safe in (text := reason(error)) else f'{url.safe}: {text}'} ({_advice(error)})" for url, error in failures
    )
    return BrokerUnavailable(f"{_SAID_FIRST}{'; '.join(tried) or 'there is no URL to try'}")


def all_unavailable(errors: Sequence[BrokerUnavailable]) -> BrokerUnavailable:
    """Return one error of a round in which every URL failed with an error of its own."""
    if len(errors) == 1:
        return errors[0]
    return BrokerUnavailable(_SAID_FIRST + "; ".join(str(error).removeprefix(_SAID_FIRST) for error in errors))


def _advice(error: Exception) -> str:
    """Return what the user may do about it."""
    match error:
        case AccessRefused():
            return "check the user and the password"
        case NotAllowed():
            return "check the virtual host, which is what follows host, port and one slash"
        case RemoteProtocolError():
            return "check host and port"
        case _:
            return "does a broker run there? the setting broker_url or LEVERET_BROKER_URL names another"


def reason(error: Exception) -> str:
    """Return what the operating system or the broker said, or the class of an error that says nothing."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts words of its own where the system's reason would be
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
