"""What the outside wants of a worker: run on, stop warm, stop cold.

::

    running ──SIGTERM, SIGINT──▶ warm ──SIGTERM, SIGINT──▶ cold
       └──────────SIGQUIT─────────┴──────────SIGQUIT────────▲
"""

from __future__ import annotations

import asyncio
import logging
import signal

__all__ = ["StopRequest"]

logger = logging.getLogger("leveret.worker")


class StopRequest:
    """Two events that are set by signals, and never cleared; cold implies warm."""

    def __init__(self) -> None:
        self.warm = asyncio.Event()
        self.cold = asyncio.Event()

    def listen(self) -> None:
        """Take the signals over from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask, number)
        loop.add_signal_handler(signal.SIGQUIT, self.ask_cold, signal.SIGQUIT)

    def ask(self, number: signal.Signals) -> None:
        """Ask for a stop: warm, and cold at the second time."""
        if self.warm.is_set():
            self.ask_cold(number)
        else:
            logger.info("%s: stopping, what runs may finish; again to end at once", number.name)
            self.warm.set()

    def ask_cold(self, number: signal.Signals) -> None:
        """Ask for the end at once."""
        if not self.cold.is_set():
            logger.warning("%s: stopping at once, what runs goes back to its queue", number.name)
        self.warm.set()
        self.cold.set()
