"""Declaring queues and looking up exchanges on one link, each once; on a channel of its own, which errors may close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from leveret.amqp.methods import exchange
from leveret.amqp.topology import Queue
from leveret.client.deadline import Deadline
from leveret.client.declarations import declarations
from leveret.client.link import Link

__all__ = ["DECLARE_CHANNEL", "REMEMBERED_MAX", "Declarer"]

DECLARE_CHANNEL: Final = 3

REMEMBERED_MAX: Final = 10_000
"""Names remembered at most; beyond, all are forgotten and declared again when they are needed."""

_FLIGHT: Final = "declarations"


class Declarer:
    """What a link has declared and looked up. Every method is called under the link's lock."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._declared: set[Queue] = set()
        self._exchanges: set[str] = set()

    def declare(self, queues: Sequence[Queue], deadline: Deadline, *, again: bool = False) -> None:
        """Declare queues with their exchanges and bindings, unless this link has and not ``again``; raises as ``Link.call``."""
        self._link.notice()
        if not self._link.is_open:
            raise self._link.lost()
        if again:
            self._declared.difference_update(queues)
        while wanted := [one for one in queues if one not in self._declared]:
            # One thread at a time: a reply code closes the channel under everybody who waits for an answer on it.
            self._link.once(_FLIGHT, lambda: self._declare(wanted, deadline), deadline)

    def knows(self, name: str) -> bool:
        """Tell whether an exchange is known to exist, as the default exchange is."""
        return not name or name in self._exchanges

    def check(self, name: str, deadline: Deadline) -> None:
        """Find out that an exchange exists, or wait for another thread that uses the channel: ask ``knows`` again.

        Raises:
            NotFound: it does not exist.

        """
        self._link.once(_FLIGHT, lambda: self._check(name, deadline), deadline)

    def forget(self) -> None:
        """Forget everything: something that was declared may be gone."""
        self._declared.clear()
        self._exchanges.clear()

    def _declare(self, queues: Sequence[Queue], deadline: Deadline) -> None:
        self._link.open_channel(DECLARE_CHANNEL, deadline)
        self._link.call_all(DECLARE_CHANNEL, declarations(queues), deadline)
        if len(self._declared) + len(queues) > REMEMBERED_MAX:
            self.forget()
        self._declared.update(queues)

    def _check(self, name: str, deadline: Deadline) -> None:
        self._link.open_channel(DECLARE_CHANNEL, deadline)
        self._link.call(DECLARE_CHANNEL, exchange.Declare(name, passive=True), deadline)
        if len(self._exchanges) >= REMEMBERED_MAX:
            self.forget()
        self._exchanges.add(name)
