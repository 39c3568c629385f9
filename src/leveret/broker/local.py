"""The user's own broker: found by a lock file, started by whoever needs it first, gone when nobody does.

In its folder, which only the user can enter::

    broker.lock       held by the broker as long as it runs: the proof that there is one
    broker.json       where it listens and its generated password; written when it is ready
    start.lock        held while one process starts it, so that others wait instead of starting a second
    broker.log        what it has to say
    data/             the broker's storage

Each App is a virtual host on it, made on demand. Run as ``python -m leveret.broker.local FOLDER``, this module is that
broker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from leveret.amqp.constants import PROTOCOL_HEADER
from leveret.amqp.uris import AMQPURL
from leveret.broker.server import BrokerConfig, BrokerServer
from leveret.errors import BrokerUnavailable, ConfigurationError, DataFolderInUse, LeveretError
from leveret.ids import SystemIdSource

__all__ = ["LocalBroker", "find", "find_or_start", "home_folder", "stop"]

USERNAME: Final = "local"
IDLE_EXIT_S: Final = 300.0
"""How long the broker stays when nobody is connected."""
HANDOVER_S: Final = 5.0
"""How long a starting broker waits for its predecessor to leave the data folder."""
LOG_BYTES_MAX: Final = 1 << 20
"""A longer log is begun anew at the next start."""
_ANSWER_TIMEOUT_S: Final = 2.0
_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class LocalBroker:
    """A running local broker, as ``broker.json`` describes it."""

    pid: int
    host: str
    port: int
    password: str
    data: str

    def url(self, vhost: str) -> AMQPURL:
        """Return where an app connects to."""
        return AMQPURL(host=self.host, port=self.port, username=USERNAME, password=self.password, vhost=vhost)


def home_folder() -> Path:
    """Return the folder of this user's broker: ``$LEVERET_HOME``, or the system's place for a user's data."""
    configured = os.environ.get("LEVERET_HOME")
    return Path(configured) if configured else Path(platformdirs.user_data_dir("leveret", appauthor=False))


def find(home: Path | None = None) -> LocalBroker | None:
    """Return the running local broker, None if there is none (or none that is ready)."""
    folder = home or home_folder()
    if not (folder / "broker.lock").exists() or not _is_locked(folder / "broker.lock"):
        return None
    try:
        found = msgspec.json.decode((folder / "broker.json").read_bytes(), type=LocalBroker)
        # The lock may be held for a moment by another process that looks, and the file be left from a broker that died.
        os.kill(found.pid, 0)
    except (OSError, msgspec.DecodeError):
        return None
    return found


def find_or_start(app_name: str, *, home: Path | None = None, timeout_s: float = 10.0) -> AMQPURL:
    """Return the URL of this user's broker, with a virtual host named as the app; start the broker if none runs.

    Raises:
        BrokerUnavailable: It could not be started in time; the message has the broker's own words.
        ConfigurationError: The folder cannot be made or belongs to another user.
    """
    folder = home or home_folder()
    running = _find_alive(folder)
    if running is None:
        make_private(folder)
        try:
            with FileLock(folder / "start.lock", timeout=timeout_s):
                running = _find_alive(folder) or _start(folder, timeout_s)
        except Timeout as error:
            raise BrokerUnavailable(
                f"another process has been starting the local broker for {timeout_s:.0f} s; see {folder / 'broker.log'}"
            ) from error
    return running.url(app_name)


def stop(home: Path | None = None, *, timeout_s: float = 10.0) -> bool:
    """Stop this user's broker and wait until it is gone; return False when none was running."""
    folder = home or home_folder()
    running = find(folder)
    if running is None:
        return False
    os.kill(running.pid, signal.SIGTERM)
    try:
        # The broker holds this lock for as long as it lives.
        FileLock(folder / "broker.lock").acquire(timeout=timeout_s).lock.release()
    except Timeout as error:
        raise BrokerUnavailable(f"the local broker (process {running.pid}) did not stop within {timeout_s:.0f} s") from error
    return True


def make_private(folder: Path) -> None:
    """Make the folder, for this user only.

    Raises:
        ConfigurationError: It cannot be made, or is somebody else's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "geteuid") and folder.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"the folder {folder} belongs to another user; set LEVERET_HOME to one of your own")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {folder} for the local broker: {error.strerror}; set LEVERET_HOME to a folder that you may write to"
        ) from error


def _find_alive(folder: Path) -> LocalBroker | None:
    """Return the broker that runs there if it speaks: one that was killed may hold its lock and address a little longer."""
    running = find(folder)
    if running is None:
        return None
    try:
        with socket.create_connection((running.host, running.port), timeout=_ANSWER_TIMEOUT_S) as probe:
            probe.sendall(PROTOCOL_HEADER)
            return running if probe.recv(1) else None
    except OSError:
        return None


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _start(folder: Path, timeout_s: float) -> LocalBroker:
    """Start the broker as a process of its own and wait for its word that it is ready."""
    deadline_s = time.monotonic() + timeout_s
    log_path = folder / "broker.log"
    fresh = not log_path.exists() or log_path.stat().st_size > LOG_BYTES_MAX
    with open(log_path, "wb" if fresh else "ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "leveret.broker.local", os.fspath(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_file,
            start_new_session=True,  # neither Ctrl-C nor a closed terminal is meant for it
        )
    while time.monotonic() < deadline_s:
        running = _find_alive(folder)
        if running is not None:
            # It outlives us, and nobody waits for it: that is what it is for.
            process.returncode = 0
            return running
        if process.poll() is not None:
            raise BrokerUnavailable(f"the local broker could not start: {_last_words(log_path)} (the whole log: {log_path})")
        time.sleep(_PAUSE_S)
    process.terminate()
    raise BrokerUnavailable(f"the local broker did not start within {timeout_s:.0f} s; see {log_path}")


def _last_words(path: Path) -> str:
    """Return the last line of the log, without when and how loud it was said."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].rpartition(" ERROR ")[2] if lines else "it said nothing"


def _idle_exit_s() -> float:
    configured = os.environ.get("LEVERET_LOCAL_IDLE_S")
    try:
        return IDLE_EXIT_S if configured is None else float(configured)
    except ValueError as error:
        raise ConfigurationError(f"LEVERET_LOCAL_IDLE_S must be a number of seconds, not {configured!r}") from error


async def _run(folder: Path) -> None:
    config = BrokerConfig(
        port=0,
        data=folder / "data",
        passwords={USERNAME: SystemIdSource().password()},
        creates_vhosts=True,
        idle_exit_s=_idle_exit_s(),
        owns_process=True,
    )
    server = BrokerServer(config)
    give_up_s = time.monotonic() + HANDOVER_S
    while True:
        try:
            await server.start()
            break
        except DataFolderInUse:
            if time.monotonic() > give_up_s:
                raise
            await asyncio.sleep(_PAUSE_S)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop_soon)
    host, port = server.address
    described = LocalBroker(os.getpid(), host, port, config.passwords[USERNAME], os.fspath(folder / "data"))
    path = folder / "broker.json"
    _announce(path, described)
    try:
        await server.serve()
    finally:
        path.unlink(missing_ok=True)


def _announce(path: Path, described: LocalBroker) -> None:
    """Write the file in one step, readable by this user only."""
    temporary = path.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(described))
    temporary.replace(path)


def main() -> None:
    """Be the local broker of the folder given on the command line, until nobody needs it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    folder = Path(sys.argv[1])
    try:
        with FileLock(folder / "broker.lock", timeout=HANDOVER_S):
            (folder / "broker.json").unlink(missing_ok=True)
            asyncio.run(_run(folder))
    except (LeveretError, Timeout) as error:
        logging.getLogger("leveret.broker").error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
