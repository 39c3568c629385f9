"""Broker URLs, after RabbitMQ's URI specification.

::

    amqp://username:password@host:port/vhost?key=value&...      amqps:// for TLS

Every part but the scheme may be missing: guest, guest, localhost, 5672 (5671 with TLS) and the virtual host ``/``. In each
part a character that separates parts is written as %XX; the virtual host ``/`` is ``/%2F`` or ``//``, or nothing at all.
Several URLs in one text are separated by ``;``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from leveret.errors import ConfigurationError

__all__ = ["AMQPURL", "parse_url", "parse_urls"]

_DEFAULT_PORTS: Final[Mapping[str, int]] = {"amqp": 5672, "amqps": 5671}
_SECRET_KEYS: Final = frozenset({"password"})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AMQPURL:
    """Where a broker is and who we are there; printing it shows no password."""

    scheme: str = "amqp"
    host: str = "localhost"
    port: int = 5672
    username: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    query: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def safe(self) -> str:
        """The URL with ``***`` for the password, for people and logs."""
        return self._format("***", {key: "***" if key in _SECRET_KEYS else value for key, value in self.query.items()})

    @property
    def text(self) -> str:
        """The whole URL, the password in it: ``parse_url`` makes an equal object of it."""
        return self._format(quote(self.password, safe=""), self.query)

    def __str__(self) -> str:
        return self.safe

    def __repr__(self) -> str:
        return f"AMQPURL({self.safe!r})"

    def _format(self, password: str, query: Mapping[str, str]) -> str:
        host = f"[{quote(self.host, safe=':')}]" if ":" in self.host else quote(self.host, safe="")
        login = f"{quote(self.username, safe='')}:{password}"
        suffix = f"?{urlencode(query, safe='*', quote_via=quote)}" if query else ""
        return f"{self.scheme}://{login}@{host}:{self.port}/{quote(self.vhost, safe='')}{suffix}"


def parse_url(text: str) -> AMQPURL:
    """Read one broker URL.

    Raises ``ConfigurationError``, which says what is wrong and never quotes a part that may hold a password.
    """
    # By hand, not with urlsplit: its errors quote the whole of what stands before the path, password included.
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise ConfigurationError("a broker URL begins with amqp:// or amqps://")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        named = f", not {scheme}://" if scheme.isalnum() else ""
        raise ConfigurationError(f"a broker URL begins with amqp:// or amqps://{named}")
    if any(character.isspace() or not character.isprintable() for character in rest):
        raise ConfigurationError("a broker URL holds no spaces or control characters; write them as %XX")
    if "#" in rest:
        raise ConfigurationError("a broker URL holds no #; write it as %23")
    before_query, _, query = rest.partition("?")
    authority, _, path = before_query.partition("/")
    login, at, address = authority.rpartition("@")
    if not at and "@" in rest:
        # A password with a bare / or ? would otherwise be taken for a host's port, a virtual host or a query, and be shown.
        raise ConfigurationError("write / and ? in a user name or password as %2F and %3F, and @ after the host as %40")
    username, _, password = login.partition(":")
    host, port = _parse_address(address, _DEFAULT_PORTS[scheme])
    return AMQPURL(
        scheme=scheme,
        host=host,
        port=port,
        username=_decode(username, "user name") if at else "guest",
        password=_decode(password, "password") if at else "guest",
        vhost=_decode(path, "virtual host") or "/",
        query=_parse_query(query),
    )


def parse_urls(text: str) -> list[AMQPURL]:
    """Read broker URLs separated by ``;``, in their order; at least one. Raises ``ConfigurationError``."""
    urls = [parse_url(part) for part in text.split(";") if part.strip()]
    if not urls:
        raise ConfigurationError("the broker URL is empty; it begins with amqp:// or amqps://")
    return urls


def _parse_address(address: str, default_port: int) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, port = address[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigurationError("an IPv6 address in a broker URL stands in brackets, with :port or nothing after them")
        port = port.removeprefix(":")
        host = _decode(host, "host")
        try:
            IPv6Address(host)
        except ValueError as error:
            raise ConfigurationError(f"{host!r} in a broker URL is not an IPv6 address") from error
    else:
        host, _, port = address.partition(":")
        if ":" in port:
            raise ConfigurationError("a broker URL has more than one : after its host; an IPv6 address stands in brackets")
        host = _decode(host, "host")
    if not port:
        return host or "localhost", default_port
    # What stands here may be a password, when somebody forgot the host: it is not quoted.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ConfigurationError("the port in a broker URL is a number from 1 to 65535")
    return host or "localhost", int(port)


def _parse_query(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict"))
    except ValueError:
        raise ConfigurationError("what follows ? in a broker URL is key=value pairs with & between them") from None


def _decode(part: str, name: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        # From None: the error quotes the part.
        raise ConfigurationError(f"the {name} in a broker URL is not UTF-8 after decoding its %XX") from None
