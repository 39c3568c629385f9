"""Login mechanisms: literal responses, what is refused, and that no error shows a password."""

from __future__ import annotations

import traceback

import pytest
from amqp import sasl as py_amqp  # type: ignore[import-untyped]  # py-amqp has no annotations

from leveret.amqp import sasl
from leveret.errors import AccessRefused, ConfigurationError, MethodSyntaxError

AMQPLAIN_GUEST = b"\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x05guest"


def test_plain_is_two_zero_bytes_and_two_texts() -> None:
    """The client writes, and the server reads, an empty authorization id, the user name and the password."""
    assert sasl.build("PLAIN", "guest", "gü") == b"\0guest\0g\xc3\xbc"
    assert sasl.parse("PLAIN", b"\0guest\0g\xc3\xbc") == ("guest", "gü")
    assert sasl.parse("PLAIN", b"\0\0") == ("", "")


def test_amqplain_is_a_table_without_its_size() -> None:
    """LOGIN and PASSWORD as long strings; bytes are read too, as some clients write them."""
    assert sasl.build("AMQPLAIN", "guest", "guest") == AMQPLAIN_GUEST
    assert sasl.parse("AMQPLAIN", AMQPLAIN_GUEST) == ("guest", "guest")
    assert sasl.parse("AMQPLAIN", b"\x08PASSWORDx\x00\x00\x00\x01p\x05LOGINx\x00\x00\x00\x01l\x01zV") == ("l", "p")


def test_external_says_nothing() -> None:
    """The certificate speaks; there is no password to read."""
    assert sasl.build("EXTERNAL", "guest", "guest") == b""
    with pytest.raises(AccessRefused, match="EXTERNAL"):
        sasl.parse("EXTERNAL", b"")


def test_py_amqp_writes_the_same_responses() -> None:
    """The responses of an independent client are ours, byte by byte."""
    assert sasl.build("PLAIN", "u", "é") == py_amqp.PLAIN("u", "é").start(None)
    assert sasl.build("AMQPLAIN", "u", "é") == py_amqp.AMQPLAIN("u", "é").start(None)


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b""),
        ("PLAIN", b"\0hunter2"),
        ("PLAIN", b"authzid\0u\0hunter2"),
        ("PLAIN", b"\0u\0hunter2\0"),
        ("PLAIN", b"\0u\0hunter2\xff"),
        ("AMQPLAIN", b""),
        ("AMQPLAIN", AMQPLAIN_GUEST[:-1]),
        ("AMQPLAIN", AMQPLAIN_GUEST.replace(b"LOGIN", b"NIGOL")),
        ("AMQPLAIN", AMQPLAIN_GUEST + b"\x01kZhunter2"),
        ("AMQPLAIN", b"\x05LOGINI\x00\x00\x00\x01" + AMQPLAIN_GUEST[16:]),
        ("AMQPLAIN", AMQPLAIN_GUEST.replace(b"S\x00\x00\x00\x05guest\x08", b"S\x00\x00\x00\x05gu\xffst\x08")),
    ],
)
def test_malformed_responses_are_a_syntax_error_that_quotes_nothing(mechanism: str, response: bytes) -> None:
    """502 says what was expected; neither it nor its chain shows what was sent, which may hold a password."""
    with pytest.raises(MethodSyntaxError, match=mechanism) as caught:
        sasl.parse(mechanism, response)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__context__)
    assert "hunter2" not in shown
    assert "104,117,110" not in shown


@pytest.mark.parametrize("mechanism", ["", "plain", "SCRAM-SHA-256"])
def test_unknown_mechanisms_are_refused(mechanism: str) -> None:
    """Names of mechanisms are compared as they are."""
    with pytest.raises(ConfigurationError, match="mechanism"):
        sasl.build(mechanism, "u", "p")
    with pytest.raises(AccessRefused, match="mechanism"):
        sasl.parse(mechanism, b"\0u\0p")


@pytest.mark.parametrize(("username", "password"), [("u\0", "hunter2"), ("u", "hunter2\0")])
def test_plain_has_no_place_for_zero_bytes(username: str, password: str) -> None:
    """A zero byte would shift what the server reads; the error shows no password."""
    with pytest.raises(ConfigurationError) as caught:
        sasl.build("PLAIN", username, password)
    assert "hunter2" not in str(caught.value)
    assert sasl.parse("AMQPLAIN", sasl.build("AMQPLAIN", username, password)) == (username, password)
