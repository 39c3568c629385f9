"""The embedded broker as a process of its own: ``leveret broker`` on a private port and folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support.processes import accepts_connections, free_port, last_lines, start_process, stop_process
from tests.support.waiting import wait_until

__all__ = ["EmbeddedBroker"]

_START_TIMEOUT_S: Final = 15.0
_STOP_TIMEOUT_S: Final = 10.0


class EmbeddedBroker:
    """One embedded broker: started by ``start``, gone after ``stop``; data survives ``restart`` and ``kill``."""

    # What its behaviour follows, where RabbitMQ's versions differ.
    version: Final = (3, 13)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = free_port()
        self._log = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, vhost: str = "/") -> str:
        """Return the URL of one vhost."""
        return f"amqp://guest:guest@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Start the broker and return when it accepts connections; a running one is left alone."""
        if self._process is not None:
            return
        program = Path(sys.executable).parent / "leveret"
        options = ["--host", self.host, "--port", str(self.port), "--data", str(self.folder / "data")]
        self.folder.mkdir(parents=True, exist_ok=True)
        process = start_process([program, "broker", *options], log=self._log)
        self._process = process
        try:
            wait_until(lambda: self._is_serving(process), _START_TIMEOUT_S, f"leveret broker to listen on port {self.port}")
        except (AssertionError, RuntimeError) as error:
            self.kill()
            message = f"the embedded broker did not start: {error}; its output ends with:\n{last_lines(self._log)}"
            raise RuntimeError(message) from error

    def _is_serving(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with exit code {process.returncode}")
        return accepts_connections(self.port)

    @property
    def pid(self) -> int:
        """Return the process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop the broker in good order, or kill it when it does not go. Safe before ``start`` and safe twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the broker in good order and start it again on the same data and port."""
        self.stop()
        self.start()

    def _end(self, first_signal: signal.Signals) -> None:
        if self._process is not None:
            stop_process(self._process, grace_s=_STOP_TIMEOUT_S, first_signal=first_signal)
            self._process = None
