"""Who may log in."""

from __future__ import annotations

import pytest

from leveret.amqp import sasl
from leveret.broker.auth import MECHANISMS, Users
from leveret.errors import AccessRefused

USERS = Users({"guest": "guest", "anna": "pässword", "empty": ""})
AMQPLAIN_ANNA = b"\x05LOGINS\x00\x00\x00\x04anna\x08PASSWORDS\x00\x00\x00\x09" + "pässword".encode()


@pytest.mark.parametrize(
    ("mechanism", "response", "name"),
    [
        ("PLAIN", b"\0guest\0guest", "guest"),
        ("PLAIN", "\0anna\0pässword".encode(), "anna"),
        ("AMQPLAIN", AMQPLAIN_ANNA, "anna"),
        ("PLAIN", b"\0empty\0", "empty"),
    ],
)
def test_right_password_lets_in(mechanism: str, response: bytes, name: str) -> None:
    """A known name with its password logs in, by each mechanism that the broker offers."""
    assert mechanism in MECHANISMS
    assert USERS.login(mechanism, response, from_loopback=True) == name


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0guest\0wrong"),
        ("PLAIN", b"\0guest\0"),
        ("PLAIN", b"\0nobody\0guest"),
        ("PLAIN", b"\0nobody\0\0no such user"),
        ("PLAIN", b"\0nobody\0"),
        ("PLAIN", b"guest"),
        ("PLAIN", b""),
        ("PLAIN", b"\0\xff\0\xff"),
        ("AMQPLAIN", b"\x05LOGINS"),
        ("AMQPLAIN", AMQPLAIN_ANNA.replace(b"anna", b"nobo")),
        ("EXTERNAL", b""),
        ("ANONYMOUS", b""),
    ],
)
def test_anything_else_is_refused_alike(mechanism: str, response: bytes) -> None:
    """Wrong name, wrong password and nonsense get the same words, so that nobody learns which names exist."""
    with pytest.raises(AccessRefused) as caught:
        USERS.login(mechanism, response, from_loopback=True)
    assert caught.value.reply_text == (
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
    )


@pytest.mark.parametrize(
    ("response", "from_loopback", "note"),
    [
        (b"\0guest\0wrong", True, "user 'guest': wrong password"),
        (b"\0nobody\0guest", True, "user 'nobody': not known"),
        (b"\0guest\0guest", False, "user 'guest' may log in from this machine only"),
    ],
)
def test_the_log_learns_why(response: bytes, from_loopback: bool, note: str) -> None:
    """The error's note has the reason that the client is not told; never the password."""
    with pytest.raises(AccessRefused) as caught:
        USERS.login("PLAIN", response, from_loopback=from_loopback)
    assert caught.value.__notes__ == [note]


def test_guest_comes_from_this_machine_only() -> None:
    """The user guest is refused from elsewhere like a wrong password; other users are not (RabbitMQ, access-control)."""
    with pytest.raises(AccessRefused, match="Login was refused"):
        USERS.login("PLAIN", b"\0guest\0guest", from_loopback=False)
    assert USERS.login("PLAIN", "\0anna\0pässword".encode(), from_loopback=False) == "anna"


def test_without_users_nobody_logs_in() -> None:
    """There is no user by default; the broker's configuration names guest."""
    with pytest.raises(AccessRefused):
        Users({}).login("PLAIN", b"\0guest\0guest", from_loopback=True)


def test_mechanisms_are_those_that_can_be_read() -> None:
    """What connection.start offers is what sasl can parse."""
    assert set(MECHANISMS) == {sasl.PLAIN, sasl.AMQPLAIN}
