"""What a test sees of the broker it runs on, be it the embedded one or RabbitMQ."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Broker", "Server", "unique_names"]


class Server(Protocol):
    """A broker's process."""

    host: str
    port: int

    @property
    def version(self) -> tuple[int, ...]:
        """Return (major, minor) of the RabbitMQ whose behaviour this is."""
        ...

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        ...

    def url(self, vhost: str = "/") -> str:
        """Return the URL of one vhost."""
        ...

    def start(self) -> None:
        """Start it, unless it runs; return when it serves clients."""
        ...

    def stop(self) -> None:
        """Stop it in good order."""
        ...

    def kill(self) -> None:
        """Kill it as a crash would."""
        ...

    def restart(self) -> None:
        """Stop it in good order and start it again on its data."""
        ...


def unique_names() -> Iterator[str]:
    """Yield suffixes that no other test of this run, and no earlier run on the same broker, has used."""
    start = f"{os.getpid():x}{time.time_ns() & 0xFFFFFF:06x}"
    return (f"{start}.{number}" for number in itertools.count(1))


@dataclass(slots=True)
class Broker:
    """One vhost of a running broker, with names for this test alone."""

    kind: str  # "embedded" or "rabbitmq"
    server: Server
    vhost: str
    _names: Iterator[str] = field(default_factory=unique_names)

    @property
    def url(self) -> str:
        """Return the URL of this test's vhost."""
        return self.server.url(self.vhost)

    @property
    def version(self) -> tuple[int, ...]:
        """Return (major, minor) of the RabbitMQ whose behaviour this is; (3, 13) for the embedded broker."""
        return self.server.version

    def name(self, stem: str) -> str:
        """Return a name for a queue, an exchange or a tag that nobody else uses."""
        return f"{stem}.{next(self._names)}"
