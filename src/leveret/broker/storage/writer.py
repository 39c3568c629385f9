"""The thread that writes: group commit.

Whatever batches have gathered while the last transaction was syncing go into the next one together, so that the cost
of a sync is shared by as many messages as arrive meanwhile, and a lonely message waits for one sync only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from leveret.broker.core.journal import Batch
from leveret.broker.storage.base import Storage
from leveret.errors import LeveretError, StorageError

__all__ = ["Writer"]

BATCHES_MAX: Final = 1000
"""Batches in one transaction."""
IDLE_S: Final = 1.0
"""How long nothing must have been written before the storage does its housekeeping."""


class Writer:
    """A service around a storage; the callbacks are called in its own thread.

    ``on_committed(batch_id)``: all batches up to this one are durable. ``on_failed(error)``: nothing more will be.
    """

    def __init__(
        self, storage: Storage, *, on_committed: Callable[[int], None], on_failed: Callable[[LeveretError], None]
    ) -> None:
        self._storage = storage
        self._on_committed = on_committed
        self._on_failed = on_failed
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="leveret-storage", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        """Hand over a batch; returns at once."""
        self._batches.put(batch)

    def stop(self) -> None:
        """Write what was handed over, then end the thread; safe to call twice."""
        if self._thread.is_alive():
            self._batches.put(None)
            self._thread.join()

    def _run(self) -> None:
        is_settled = True
        while True:
            try:
                batch = self._batches.get(timeout=None if is_settled else IDLE_S)
            except Empty:
                is_settled = True
                if not self._attempt(self._storage.idle):
                    return
                continue
            is_settled = False
            batches: list[Batch] = []
            while batch is not None:
                batches.append(batch)
                if len(batches) == BATCHES_MAX:
                    break
                try:
                    batch = self._batches.get_nowait()
                except Empty:
                    break
            if batches:
                if not self._attempt(partial(self._storage.write, batches)):
                    return
                self._on_committed(batches[-1].id)
            if batch is None:
                return

    def _attempt(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except LeveretError as error:
            self._on_failed(error)
            return False
        except Exception as error:  # whatever it is: without this thread nothing is durable any more
            failure = StorageError(f"unexpected error in the storage: {error!r}")
            failure.__cause__ = error
            self._on_failed(failure)
            return False
        return True
