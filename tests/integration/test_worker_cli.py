"""What ``leveret`` says to a user who made a mistake, and what it costs to ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "leveret"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder; nothing is configured there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEVERET_")}
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env={**clean, "LEVERET_HOME": os.fspath(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("source", "app", "said"),
    [
        (None, "shop:app", "there is no module shop"),
        ("x = 1\n", "shop:app", "shop has no attribute 'app'"),
        ("app = 1\n", "shop:app", "not a leveret.App"),
        ("import nonsense_package\n", "shop:app", "importing shop failed: ModuleNotFoundError"),
        ("def f(:\n", "shop:app", "importing shop failed: SyntaxError"),
        ("raise SystemExit(3)\n", "shop:app", "importing shop failed: SystemExit"),
        ("import os\nos._exit(5)\n", "shop:app", "exit code 5"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "shop:app", "SIGSEGV"),
    ],
)
def test_an_app_that_cannot_be_used_is_one_clear_message(tmp_path: Path, source: str | None, app: str, said: str) -> None:
    """Whatever is wrong with ``--app``, the worker ends with exit code 1 and one message, without a traceback."""
    if source is not None:
        (tmp_path / "shop.py").write_text(source)
    ended = run("worker", "--app", app, "--concurrency=2", folder=tmp_path)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in ended.stderr


def test_the_traceback_comes_when_asked_for(tmp_path: Path) -> None:
    """``--traceback`` shows where the app's own import failed."""
    (tmp_path / "shop.py").write_text("import nonsense_package\n")
    ended = run("--traceback", "worker", "--app=shop:app", folder=tmp_path)
    assert ended.returncode == 1
    assert 'shop.py", line 1' in ended.stderr
    assert "No module named 'nonsense_package'" in ended.stderr


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("nonsense", "there is no pool named 'nonsense'"),
        ("gevent", "the gevent pool is not available yet"),
        ("threads", "the thread pool is not available yet"),
        ("eventlet", "gevent and asyncio"),
    ],
)
def test_a_pool_that_is_not_there_is_a_usage_error_that_names_the_others(tmp_path: Path, pool: str, said: str) -> None:
    """An unknown pool, or one of a later version, is exit code 2 and a sentence that says what there is."""
    ended = run("worker", "--app=shop:app", f"--pool={pool}", folder=tmp_path)
    assert ended.returncode == 2
    assert said in " ".join(ended.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--app"),
        (("--app=a", "--concurrency=0"), "concurrency"),
        (("--app=a", "--queues=,"), "name at least one queue"),
        (("--app=a", "--loglevel=loud"), "loglevel"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """A missing or impossible option is exit code 2 and names the option."""
    ended = run("worker", *options, folder=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_help_and_version_are_there(tmp_path: Path) -> None:
    """``--help`` shows commands, options and examples; ``--version`` the version."""
    assert "worker" in run("--help", folder=tmp_path).stdout
    assert "Examples:" in run("worker", "--help", folder=tmp_path).stdout
    assert run("--version", folder=tmp_path).stdout.startswith("leveret ")


def test_help_imports_neither_worker_nor_broker(tmp_path: Path) -> None:
    """Asking for help does not load what only a running worker or broker needs."""
    code = "import sys; from leveret.cli.main import main; main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert "leveret.errors" in shown.stdout
    for room in ("leveret.worker", "leveret.broker", "leveret.client", "asyncio"):
        assert f"'{room}'" not in shown.stdout
