"""When and where to connect again."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.amqp.uris import parse_url, parse_urls
from leveret.client.recovery import all_unavailable, backoff_delays, rotated, unavailable
from leveret.errors import AccessRefused, BrokerUnavailable, NotAllowed, RemoteProtocolError


def test_delays_double_up_to_their_limit() -> None:
    """Without jitter the delays are 0.1, 0.2, 0.4 … 30 s."""
    delays = list(islice(backoff_delays(lambda: 0.0), 12))
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert delays[-2:] == [30.0, 30.0]


@given(st.lists(st.floats(min_value=0.0, max_value=1.0, exclude_max=True), min_size=20, max_size=20))
def test_jitter_cuts_at_most_a_half(draws: list[float]) -> None:
    """Whatever is drawn, a delay lies between a half of itself and itself."""
    lots = iter(draws)
    whole = backoff_delays(lambda: 0.0)
    for delay_s, whole_s in zip(islice(backoff_delays(lambda: next(lots)), 20), whole, strict=False):
        assert whole_s / 2 <= delay_s <= whole_s


def test_a_round_begins_after_the_url_that_was_lost() -> None:
    """The broker that failed comes last; without one, or one that is no longer listed, the order is as given."""
    a, b, c = parse_urls("amqp://a;amqp://b;amqp://c")
    assert rotated([a, b, c], None) == [a, b, c]
    assert rotated([a, b, c], b) == [c, a, b]
    assert rotated([a, b, c], c) == [a, b, c]
    assert rotated([a, b], c) == [a, b]
    assert rotated([a], a) == [a]


def test_the_error_names_every_url_and_reason_but_no_password() -> None:
    """Somebody who reads it knows what was tried and what the system or the broker said."""
    urls = parse_urls("amqp://me:secret@one;amqp://me:secret@two/vhost;amqp://three")
    refused = AccessRefused("Login was refused using authentication mechanism PLAIN.")
    error = unavailable(
        [(urls[0], ConnectionRefusedError(111, "Connection refused")), (urls[1], refused), (urls[2], TimeoutError("timed out"))]
    )
    text = str(error)
    assert isinstance(error, BrokerUnavailable)
    assert "amqp://me:***@one:5672/" in text
    assert "Connection refused" in text
    assert "amqp://me:***@two:5672/vhost" in text
    assert "403 ACCESS_REFUSED - Login was refused" in text
    assert "timed out" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "(does a broker run there? the setting broker_url"),
        (AccessRefused("Login was refused"), "(check the user and the password)"),
        (NotAllowed("vhost shop not found"), "(check the virtual host"),
        (RemoteProtocolError("it does not speak AMQP 0-9-1"), "(check host and port)"),
    ],
)
def test_the_error_says_what_to_do(failure: Exception, advice: str) -> None:
    """Where to look depends on who said no."""
    assert advice in str(unavailable([(parse_url("amqp://a"), failure)]))


def test_errors_of_several_urls_are_one() -> None:
    """It says once that there is no connection, and for each URL why."""
    one, two = (unavailable([(parse_url(f"amqp://{host}"), OSError(host))]) for host in "ab")
    assert all_unavailable([one]) is one
    text = str(all_unavailable([one, two, BrokerUnavailable("lost at once")]))
    assert text.count("cannot connect to the broker: ") == 1
    assert "@a:5672" in text
    assert "@b:5672" in text
    assert text.endswith("; lost at once")


def test_an_error_without_words_is_named_by_its_class() -> None:
    """No reason is empty."""
    assert "OSError" in str(unavailable([(parse_url("amqp://a"), OSError())]))
    assert "no URL" in str(unavailable([]))
