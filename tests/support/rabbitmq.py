"""A real RabbitMQ for the tests, private to one test run.

Nothing of a system service is touched or shared: the node has its own name, ports (AMQP, Erlang distribution, epmd), cookie,
data, log, configuration and plugin list, all in one temporary folder, and listens on the loopback interface only.

The scripts of the package's library folder are run directly: those on the PATH insist on the user ``rabbitmq`` and on the
folders under ``/var``. ``LEVERET_RABBITMQ_SCRIPTS`` names the ``sbin`` folder of another RabbitMQ to test against.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support.processes import accepts_connections, free_port, last_lines, start_process, stop_process
from tests.support.waiting import wait_until

__all__ = ["PASSWORD", "USER", "RabbitMQ", "missing_parts"]

USER: Final = "guest"
PASSWORD: Final = "guest"

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_CALL_TIMEOUT_S: Final = 30.0

_CONFIGURATION: Final = """\
listeners.tcp.1 = 127.0.0.1:{port}
log.console = false
log.file.level = info
# The defaults look at the whole machine: a full disk or a busy neighbour would block publishers in the middle of a test.
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
default_user = {user}
default_pass = {password}
"""


def _scripts() -> Path:
    return Path(os.environ.get("LEVERET_RABBITMQ_SCRIPTS", "/usr/lib/rabbitmq/bin"))


def missing_parts() -> list[str]:
    """Name what has to be installed before :class:`RabbitMQ` can start; empty when nothing is missing."""
    missing = [str(path) for path in (_scripts() / "rabbitmq-server", _scripts() / "rabbitmqctl") if not path.exists()]
    return missing + [program for program in ("erl", "epmd", "erl_call") if shutil.which(program) is None]


class RabbitMQ:
    """One RabbitMQ node: started by ``start``, gone after ``stop``; data survives ``restart``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = free_port()
        self.node = f"leveret-{os.getpid()}-{secrets.token_hex(3)}@localhost"
        self._log = folder / "output.log"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._environment = self._write_configuration()
        self.version: tuple[int, ...] = ()

    def _write_configuration(self) -> dict[str, str]:
        home = self.folder / "home"
        for path in (home, self.folder / "data", self.folder / "log"):
            path.mkdir(parents=True, exist_ok=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        configuration = self.folder / "rabbitmq.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port, user=USER, password=PASSWORD))
        plugins = self.folder / "enabled_plugins"
        plugins.write_text("[].\n")
        no_settings = self.folder / "rabbitmq-env.conf"
        no_settings.touch()
        self._epmd_port = free_port()
        command_port = free_port()
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {
            **inherited,
            "HOME": str(home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": str(no_settings),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(command_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(command_port + 20),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The start script then becomes the server instead of its parent, so that a signal reaches the server itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def url(self, vhost: str = "/") -> str:
        """Return the URL of one vhost."""
        return f"amqp://{USER}:{PASSWORD}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Start epmd and the node, and return when it serves clients; a running node is left alone."""
        if self._epmd is None:
            epmd_command = ["epmd", "-port", str(self._epmd_port), "-address", self.host]
            self._epmd = start_process(epmd_command, log=self._log, environment=self._environment)
            wait_until(lambda: accepts_connections(self._epmd_port), 10.0, "epmd to listen")
        if self._server is None:
            server_command = [_scripts() / "rabbitmq-server"]
            server = start_process(server_command, log=self._log, environment=self._environment, folder=self.folder)
            self._server = server
            try:
                wait_until(lambda: self._is_serving(server), _START_TIMEOUT_S, f"{self.node} to serve clients")
            except (AssertionError, RuntimeError) as error:
                self.stop()
                raise RuntimeError(f"RabbitMQ did not start: {error}; its output ends with:\n{last_lines(self._log)}") from error
            self.version = tuple(int(part) for part in self.eval("rabbit_misc:version().").strip('"').split(".")[:2])

    def _is_serving(self, server: subprocess.Popen[bytes]) -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"it ended with exit code {server.returncode}")
        return accepts_connections(self.port) and self._call("-a", "rabbit is_running []").stdout == "true"

    @property
    def pid(self) -> int:
        """Return the process id of the running node."""
        assert self._server is not None
        return self._server.pid

    def stop(self) -> None:
        """Stop the node and its epmd; whatever does not go is killed. Safe before ``start`` and safe twice."""
        self._stop_server(signal.SIGTERM)
        if self._epmd is not None:
            stop_process(self._epmd, grace_s=5.0)
            self._epmd = None

    def kill(self) -> None:
        """Kill the node as a crash would; ``start`` brings it back with its data."""
        self._stop_server(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the node in good order and start it again on the same data and ports."""
        self._stop_server(signal.SIGTERM)
        self.start()

    def _stop_server(self, first_signal: signal.Signals) -> None:
        if self._server is not None:
            stop_process(self._server, grace_s=_STOP_TIMEOUT_S, first_signal=first_signal)
            self._server = None

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node and return what it prints.

        About 0.7 s a call; :meth:`eval` takes 10 ms.

        """
        command = [str(_scripts() / "rabbitmqctl"), "--quiet", *arguments]
        answer = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=_CALL_TIMEOUT_S, check=False
        )
        if answer.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)} failed ({answer.returncode}): {answer.stdout}{answer.stderr}")
        return answer.stdout

    def eval(self, expressions: str) -> str:
        """Run Erlang expressions, ended by a full stop, on the node and return the printed value of the last one."""
        answer = self._call("-e", expressions=expressions)
        ok, _, value = answer.stdout.strip().removeprefix("{").removesuffix("}").partition(", ")
        if answer.returncode != 0 or ok != "ok":
            raise RuntimeError(f"{expressions} failed on {self.node}: {answer.stdout}{answer.stderr}")
        return value

    def _call(self, *arguments: str, expressions: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["erl_call", "-sname", self.node, *arguments],
            env=self._environment,
            input=f"{expressions}\n",
            capture_output=True,
            text=True,
            timeout=_CALL_TIMEOUT_S,
            check=False,
        )

    def add_vhost(self, name: str) -> None:
        """Create an empty vhost on which ``guest`` may do everything."""
        self.eval(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all that is in it, closing its connections."""
        self.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>).')
