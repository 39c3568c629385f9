"""Broker URLs: RabbitMQ's URI specification, defaults, errors, and that passwords stay hidden."""

from __future__ import annotations

import pytest

from leveret.amqp.uris import AMQPURL, parse_url, parse_urls
from leveret.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("amqp://user:pass@host:10000/vhost", AMQPURL(username="user", password="pass", host="host", port=10000, vhost="vhost")),
        (
            "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
            AMQPURL(username="usera", password="apass", host="hoast", port=10000, vhost="v/host"),
        ),
        ("amqp://", AMQPURL()),
        ("amqp://host", AMQPURL(host="host")),
        ("amqp://host/", AMQPURL(host="host")),
        ("amqp://host//", AMQPURL(host="host")),
        ("amqp://host/%2F", AMQPURL(host="host")),
        ("amqp://host/%2f", AMQPURL(host="host")),
        ("amqp://host/vhost", AMQPURL(host="host", vhost="vhost")),
        ("amqp://host/a/b", AMQPURL(host="host", vhost="a/b")),
        ("amqp://:5673", AMQPURL(port=5673)),
        ("amqp://user@host", AMQPURL(host="host", username="user", password="")),
        ("amqp://:@host", AMQPURL(host="host", username="", password="")),
        ("amqp://u:a:b@host", AMQPURL(host="host", username="u", password="a:b")),
        ("amqp://u:a@b@host", AMQPURL(host="host", username="u", password="a@b")),
        ("amqp://u:%40%2F%3A%3F%23%3B@host", AMQPURL(host="host", username="u", password="@/:?#;")),
        ("amqp://u:p+q@host", AMQPURL(host="host", username="u", password="p+q")),
        ("amqps://host", AMQPURL(scheme="amqps", host="host", port=5671)),
        ("AMQPS://host", AMQPURL(scheme="amqps", host="host", port=5671)),
        ("amqps://host:5672", AMQPURL(scheme="amqps", host="host", port=5672)),
        ("amqp://[::1]", AMQPURL(host="::1")),
        ("amqp://[2001:db8::1]:5673/v", AMQPURL(host="2001:db8::1", port=5673, vhost="v")),
        ("amqp://[fe80::1%25eth0]", AMQPURL(host="fe80::1%eth0")),
        ("amqp://g%C3%BC:%C3%A9@host/%C3%B6", AMQPURL(host="host", username="gü", password="é", vhost="ö")),
        ("amqp://gü:é@host/ö", AMQPURL(host="host", username="gü", password="é", vhost="ö")),
        (
            "amqp://host/v?heartbeat=10&name=a%26b&empty=",
            AMQPURL(host="host", vhost="v", query={"heartbeat": "10", "name": "a&b", "empty": ""}),
        ),
        ("amqp://host?heartbeat=10", AMQPURL(host="host", query={"heartbeat": "10"})),
        ("  amqp://host\n", AMQPURL(host="host")),
    ],
)
def test_urls_are_read_as_rabbitmq_specifies(text: str, url: AMQPURL) -> None:
    """Each part has its default, is decoded by itself, and the whole can be written and read again."""
    assert parse_url(text) == url
    assert parse_url(url.text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with amqp:// or amqps://"),
        ("localhost:5672", "begins with amqp:// or amqps://"),
        ("amqp:localhost", "begins with amqp:// or amqps://"),
        ("redis://localhost", "not redis://"),
        ("u:hunter2@host://x", "begins with amqp:// or amqps://"),
        ("amqp://host:port", "port"),
        ("amqp://host:0", "port"),
        ("amqp://host:65536", "port"),
        ("amqp://host:-1", "port"),
        ("amqp://host:\u0665", "port"),
        ("amqp://host:5672:5673", "brackets"),
        ("amqp://::1", "brackets"),
        ("amqp://[::1", "brackets"),
        ("amqp://[::1]5672", "brackets"),
        ("amqp://[host]", "IPv6"),
        ("amqp://host/a b", "%XX"),
        ("amqp://ho\x00st", "%XX"),
        ("amqp://host/#x", "%23"),
        ("amqp://host/v?heartbeat", "key=value"),
        ("amqp://host/v?a=%ff", "key=value"),
        ("amqp://u:%ff@host", "password .* UTF-8"),
        ("amqp://host/%ff", "virtual host .* UTF-8"),
        # A password that was not encoded, or a host that was forgotten.
        ("amqp://u:hunter2", "port"),
        ("amqp://u:hun/ter2@host", "%2F"),
        ("amqp://u:hun?ter2@host", "%3F"),
        ("amqp://u:hun#ter2@host", "%23"),
        ("amqp://u:hun ter2@host", "%XX"),
        ("amqp://u:hunter2@host:x", "port"),
        ("amqp://u:hunter2@[host]", "IPv6"),
        ("amqp://u:%ffhunter2@host", "password"),
    ],
)
def test_bad_urls_say_what_is_wrong_and_show_no_password(text: str, message: str) -> None:
    """The error names the part; neither it nor what it came from holds the password."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_url(text)
    for secret in ("hunter2", "hun", "ter2"):
        assert secret not in str(caught.value)
        assert secret not in str(caught.value.__cause__)


def test_printing_a_url_hides_the_password() -> None:
    """Text, repr and the safe form show ***, for the password of a TLS key too; only ``text`` has it all."""
    url = parse_url("amqps://u:hunter2@host:1/v?password=hunter3&x=1")
    assert url.safe == str(url) == f"{url}" == "amqps://u:***@host:1/v?password=***&x=1"
    assert repr(url) == "AMQPURL('amqps://u:***@host:1/v?password=***&x=1')"
    assert url.text == "amqps://u:hunter2@host:1/v?password=hunter3&x=1"


def test_what_is_printed_is_encoded() -> None:
    """Characters that part a URL are written as %XX, an IPv6 address in brackets."""
    url = AMQPURL(host="fe80::1%eth0", username="a/b", password="p@;ss", vhost="/", query={"a b": "&="})
    assert url.text == "amqp://a%2Fb:p%40%3Bss@[fe80::1%25eth0]:5672/%2F?a%20b=%26%3D"
    assert parse_url(url.text) == url


def test_urls_can_be_keys() -> None:
    """Equal URLs hash alike, with a query too."""
    assert len({parse_url("amqp://host/v?a=1"), parse_url("amqp://host:5672/v?a=1"), parse_url("amqp://host/w")}) == 2


def test_several_urls_are_parted_by_semicolons() -> None:
    """Their order is kept; blanks and a last semicolon do no harm."""
    assert [url.host for url in parse_urls("amqp://a; amqp://b ;amqps://c;")] == ["a", "b", "c"]
    assert parse_urls("amqp://a") == [AMQPURL(host="a")]


@pytest.mark.parametrize("text", ["", " ", ";"])
def test_no_url_at_all_is_an_error(text: str) -> None:
    """An empty setting is not a broker."""
    with pytest.raises(ConfigurationError, match="empty"):
        parse_urls(text)
