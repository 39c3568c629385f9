"""Type checkers know what a task takes and returns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def errors_found(file: Path) -> dict[int, set[str]]:
    """Return mypy's error codes by line."""
    program = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(file)]
    output = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found: dict[int, set[str]] = {}
    for line, code in re.findall(
        rf"^{re.escape(str(file.relative_to(ROOT)))}:(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE
    ):
        found.setdefault(int(line), set()).add(code)
    assert bool(found) == ("error:" in output), output
    return found


def test_what_is_right_type_checks() -> None:
    """Signatures, results, bound and async tasks, settings: all with the types that calls.py asserts."""
    assert errors_found(HERE / "calls.py") == {}


def test_each_mistake_is_found() -> None:
    """Every marked line of mistakes.py is an error of just the marked kinds, and no other line is one."""
    file = HERE / "mistakes.py"
    marked = {
        number: set(mark.group(1).split())
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (mark := re.search(r"# E: ([a-z -]+)$", line))
    }
    assert errors_found(file) == marked
