"""The user's own broker: one for all processes, found or started, private, replaced when it died, gone when idle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from leveret.amqp.uris import AMQPURL
from leveret.broker import local
from leveret.errors import BrokerUnavailable, ConfigurationError
from tests.support.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for a broker; whatever runs there is stopped afterwards."""
    folder = tmp_path / "home"
    yield folder
    if folder.is_dir():
        local.stop(folder)


def connect(url: AMQPURL) -> pika.BlockingConnection:
    """Connect a client of another family."""
    return pika.BlockingConnection(pika.URLParameters(url.text))


def mode(path: Path) -> int:
    """Return the permission bits."""
    return path.stat().st_mode & 0o777


def is_alive(pid: int) -> bool:
    """Tell whether a process runs: not gone, and not waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --------------------------------------------------------------------------------------------------- one for all


def test_eight_processes_at_once_get_one_broker(home: Path) -> None:
    """Whoever comes first starts it, the others find it: one process, one address, one password."""
    program = """
import sys
from pathlib import Path
from leveret.broker import local
sys.stdin.readline()
print(local.find_or_start("app", home=Path(sys.argv[1])).text)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for process in processes:  # all are waiting for this line
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(found) == 1
    assert found == {local.find_or_start("app", home=home).text}
    assert (home / "broker.log").read_text().count("Traceback") == 0


def test_each_app_has_a_vhost_of_its_own(home: Path) -> None:
    """Two apps share the broker and nothing else; a vhost is made on demand."""
    one, other = (local.find_or_start(name, home=home) for name in ("shop", "blog/π"))
    assert (one.vhost, other.vhost) == ("shop", "blog/π")
    assert (one.port, one.password) == (other.port, other.password)
    with connect(one) as first, connect(other) as second:
        first.channel().queue_declare("q", exclusive=True)
        second.channel().queue_declare("q", exclusive=True)


def test_what_it_writes_is_private(home: Path) -> None:
    """Only the user may enter the folder, and read the password in it."""
    url = local.find_or_start("app", home=home)
    assert mode(home) == 0o700
    assert mode(home / "broker.json") == 0o600
    assert mode(home / "data") == 0o700
    described = json.loads((home / "broker.json").read_bytes())
    assert described["password"] == url.password
    assert len(described["password"]) >= 43
    assert url.password not in (home / "broker.log").read_text()


def test_a_folder_open_to_others_is_closed(home: Path) -> None:
    """A folder that exists already is made private before a password is written there."""
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    local.find_or_start("app", home=home)
    assert mode(home) == 0o700


def test_wrong_password_is_refused(home: Path) -> None:
    """Being on the same machine is not enough, and there is no guest."""
    url = local.find_or_start("app", home=home)
    for username, password in [("guest", "guest"), (url.username, "guess")]:
        wrong = AMQPURL(host=url.host, port=url.port, username=username, password=password, vhost="app")
        with pytest.raises(pika.exceptions.ProbableAuthenticationError):
            connect(wrong)


# ---------------------------------------------------------------------------------------------- comes and goes


def test_stop_ends_it_and_says_whether_there_was_one(home: Path) -> None:
    """After stop there is no process and no address; a second stop has nothing to do."""
    assert local.find(home) is None
    local.find_or_start("app", home=home)
    running = local.find(home)
    assert running is not None
    assert local.stop(home)
    assert local.find(home) is None
    assert not (home / "broker.json").exists()
    wait_until(lambda: not is_alive(running.pid), 5, "the broker's process to end")
    assert not local.stop(home)


def test_a_stopped_broker_keeps_what_is_durable(home: Path) -> None:
    """The next start finds queues and messages, with a new password."""
    url = local.find_or_start("app", home=home)
    with connect(url) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "q", b"kept", pika.BasicProperties(delivery_mode=2))
    local.stop(home)
    again = local.find_or_start("app", home=home)
    assert again.password != url.password
    with connect(again) as connection:
        assert connection.channel().basic_get("q", auto_ack=True)[2] == b"kept"


def test_a_killed_broker_is_replaced(home: Path) -> None:
    """After kill -9 the next one who asks gets a new broker, with every confirmed message, marked redelivered."""
    url = local.find_or_start("app", home=home)
    with connect(url) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        for number in range(10):
            channel.basic_publish("", "q", b"%d" % number, pika.BasicProperties(delivery_mode=2))
        running = local.find(home)
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(pika.exceptions.AMQPError):
            connection.process_data_events(5)
    again = local.find_or_start("app", home=home)
    replaced = local.find(home)
    assert replaced is not None
    assert replaced.pid != running.pid
    with connect(again) as connection:
        channel = connection.channel()
        for number in range(10):
            method, _, body = channel.basic_get("q", auto_ack=True)
            assert method is not None
            assert (body, method.redelivered) == (b"%d" % number, True)


def test_an_idle_broker_leaves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays while somebody is connected, and goes when nobody has been for a while."""
    monkeypatch.setenv("LEVERET_LOCAL_IDLE_S", "0.5")
    url = local.find_or_start("app", home=home)
    connection = connect(url)
    running = local.find(home)
    assert running is not None
    connection.process_data_events(1.5)
    assert is_alive(running.pid)
    connection.close()
    wait_until(lambda: not is_alive(running.pid), 10, "the idle broker to leave")
    assert local.find(home) is None
    assert "leaving; the next start finds everything again" in (home / "broker.log").read_text()


def test_a_stale_description_is_not_believed(home: Path) -> None:
    """What a broker that died has left behind is no broker, whoever has its process id now."""
    home.mkdir()
    described = {"pid": os.getpid(), "host": "127.0.0.1", "port": 1, "password": "x", "data": "x"}
    (home / "broker.json").write_text(json.dumps(described))
    (home / "broker.lock").touch()
    assert local.find(home) is None
    assert local.find_or_start("app", home=home).port != 1


def test_it_outlives_who_started_it(home: Path) -> None:
    """The broker belongs to the user, not to the process that needed it first, nor to its terminal."""
    program = """
import sys
from pathlib import Path
from leveret.broker import local
local.find_or_start("a", home=Path(sys.argv[1]))
"""
    subprocess.run([sys.executable, "-c", program, home], check=True, timeout=30)
    running = local.find(home)
    assert running is not None
    assert os.getsid(running.pid) == running.pid
    with connect(running.url("a")) as connection:
        assert connection.is_open


# ------------------------------------------------------------------------------------------------------ trouble


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LEVERET_HOME says where; otherwise it is the system's place for a user's data."""
    monkeypatch.setenv("LEVERET_HOME", str(tmp_path))
    assert local.home_folder() == tmp_path
    monkeypatch.delenv("LEVERET_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert local.home_folder().name == "leveret"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The message has the folder, the reason and the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigurationError, match=r"cannot use .*/file/home for the local broker: Not a directory; set LEVERET_HOME to a folder"
    ):
        local.find_or_start("app", home=tmp_path / "file" / "home")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a folder another user's")
def test_another_users_folder_is_not_used(tmp_path: Path) -> None:
    """A password is not put where somebody else can read it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to another user; set LEVERET_HOME to one of your own"):
        local.find_or_start("app", home=folder)


def test_a_broker_that_cannot_start_says_why(home: Path) -> None:
    """The error has the broker's own last words, and where the whole log is."""
    home.mkdir()
    (home / "data").write_text("a file in the way")
    with pytest.raises(BrokerUnavailable) as caught:
        local.find_or_start("app", home=home)
    said = str(caught.value)
    assert said.startswith(f"the local broker could not start: cannot make the data folder {home / 'data'}: File exists; choose")
    assert f"the whole log: {home / 'broker.log'}" in said
    (home / "data").unlink()
    local.find_or_start("app", home=home)  # once the reason is gone, it starts


def test_wrong_idle_time_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be read ends in one clear sentence."""
    monkeypatch.setenv("LEVERET_LOCAL_IDLE_S", "soon")
    with pytest.raises(BrokerUnavailable, match="LEVERET_LOCAL_IDLE_S must be a number of seconds, not 'soon'"):
        local.find_or_start("app", home=home)
    assert "Traceback" not in (home / "broker.log").read_text()


def test_a_damaged_storage_is_said(home: Path) -> None:
    """What is on disk and cannot be read is not thrown away, but named."""
    (home / "data").mkdir(parents=True)
    (home / "data" / "broker.sqlite3").write_bytes(b"garbage" * 1000)
    with pytest.raises(BrokerUnavailable, match=r"is damaged .*; move it away and start with an empty folder"):
        local.find_or_start("app", home=home)
    assert (home / "data" / "broker.sqlite3").read_bytes() == b"garbage" * 1000


def test_a_long_log_is_begun_anew(home: Path) -> None:
    """The log of a broker that has often been started does not grow for ever."""
    home.mkdir()
    (home / "broker.log").write_bytes(b"x" * (local.LOG_BYTES_MAX + 1))
    local.find_or_start("app", home=home)
    assert (home / "broker.log").stat().st_size < local.LOG_BYTES_MAX
