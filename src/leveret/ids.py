"""The only source of randomness: task ids, server-made names, passwords."""

from __future__ import annotations

import base64
import os
import secrets
import uuid
from typing import Protocol

__all__ = ["IdSource", "SystemIdSource"]


class IdSource(Protocol):
    """Where ids come from, so that tests and simulations can give their own."""

    def task_id(self) -> str:
        """Return a new UUID 4 as text, as Celery's task ids are."""
        ...

    def name_suffix(self) -> str:
        """Return 22 characters of URL-safe base64 (128 random bits), as in ``amq.gen-...``."""
        ...

    def password(self) -> str:
        """Return a new secret of 256 random bits as URL-safe text."""
        ...


class SystemIdSource:
    """Ids from the operating system's random source."""

    def task_id(self) -> str:
        """Return a new UUID 4 as text."""
        return str(uuid.UUID(bytes=os.urandom(16), version=4))

    def name_suffix(self) -> str:
        """Return 22 characters of URL-safe base64."""
        return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")

    def password(self) -> str:
        """Return 43 characters of URL-safe base64."""
        return secrets.token_urlsafe(32)
