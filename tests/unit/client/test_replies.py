"""Replies that wait to be asked for, within their limits."""

from __future__ import annotations

from leveret.client.replies import Replies


def test_replies_to_one_id_keep_their_order_and_come_once() -> None:
    """STARTED comes before SUCCESS, and each is given out once."""
    replies = Replies()
    replies.add("a", b"started")
    replies.add("b", b"other")
    replies.add("a", b"success")
    assert [replies.take("a"), replies.take("a"), replies.take("a")] == [b"started", b"success", None]
    assert len(replies) == 1


def test_too_many_replies_cost_the_oldest() -> None:
    """The number is limited; the oldest id loses first."""
    replies = Replies(count_max=3)
    for name in "abcd":
        replies.add(name, b"x")
    assert replies.take("a") is None
    assert [replies.take(name) for name in "bcd"] == [b"x"] * 3


def test_too_many_bytes_cost_the_oldest() -> None:
    """The bytes are limited, but the newest reply always stays."""
    replies = Replies(bytes_max=10)
    replies.add("a", b"1234")
    replies.add("b", b"5678")
    replies.add("c", b"x" * 100)
    assert (replies.take("a"), replies.take("b")) == (None, None)
    assert replies.take("c") == b"x" * 100
    replies.add("d", b"1234567890")
    assert replies.take("d") == b"1234567890"


def test_many_replies_to_one_id_are_limited_too() -> None:
    """An id that is answered again and again keeps the newest replies."""
    replies = Replies(count_max=2)
    for number in range(5):
        replies.add("a", b"%d" % number)
    assert [replies.take("a"), replies.take("a"), replies.take("a")] == [b"3", b"4", None]


def test_forgotten_replies_are_gone() -> None:
    """Forgetting an id drops all its replies and nothing else; an unknown id is ignored."""
    replies = Replies()
    replies.add("a", b"1")
    replies.add("a", b"2")
    replies.add("b", b"3")
    replies.forget("a")
    replies.forget("unknown")
    assert (replies.take("a"), replies.take("b")) == (None, b"3")
    assert len(replies) == 0
