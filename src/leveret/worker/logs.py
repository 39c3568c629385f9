"""Plain lines on stderr, the same from the supervisor and its children."""

from __future__ import annotations

import logging
import sys
from typing import Final

__all__ = ["set_up_logging"]

_CHATTY: Final = ("asyncio", "filelock")
"""Loggers of others' whose debug lines say nothing about tasks."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up_logging(level: str) -> None:
    """Send what is logged to stderr as ``time level logger message``; leave an app's own handlers alone."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
        root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
