"""Child processes that never outlive the test run, and ports nobody else uses."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["accepts_connections", "free_port", "last_lines", "start_process", "stop_process"]

# Below the range from which Linux takes the ports of outgoing connections (32768 and up): a client cannot take one between
# the moment it is found free and the moment a server listens on it.
_FIRST_PORT = 20_000
_LAST_PORT = 32_000
_PORT_TRIES = 200


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens."""
    for _ in range(_PORT_TRIES):
        port = random.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port between {_FIRST_PORT} and {_LAST_PORT} in {_PORT_TRIES} tries")


def accepts_connections(port: int) -> bool:
    """Tell whether something listens on that port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def start_process(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program with its output appended to ``log``; the kernel kills it when the test run dies in whatever way."""
    guard = shutil.which("setpriv")  # util-linux; absent outside Linux, where the fixtures' own clean-up has to do
    guarded = [guard, "--pdeathsig", "KILL", "--", *command] if guard else list(command)
    with log.open("ab") as output:
        return subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )


def stop_process(process: subprocess.Popen[bytes], *, grace_s: float, first_signal: signal.Signals = signal.SIGTERM) -> int:
    """Signal a process, kill it when it is still there after ``grace_s``, and return its exit code; safe to call twice."""
    if process.poll() is None:
        process.send_signal(first_signal)
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(timeout=10.0)


def last_lines(log: Path, *, count: int = 30) -> str:
    """Return the end of a log file, for the message of a failure."""
    if not log.exists():
        return f"({log} does not exist)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
