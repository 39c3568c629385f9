"""What ``import leveret`` loads."""

from __future__ import annotations

import subprocess
import sys

import leveret

# Each takes 3 to 60 ms to import, and only sending, waiting or working needs it.
HEAVY = [
    "asyncio",
    "concurrent.futures",
    "leveret.broker",
    "leveret.client",
    "leveret.worker",
    "logging",
    "socket",
    "sqlite3",
    "ssl",
]


def test_importing_leveret_is_light() -> None:
    """A program that defines tasks pays for neither the client nor the broker nor the stores."""
    program = f"import sys, leveret; print([name for name in {HEAVY} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_every_public_name_is_there() -> None:
    """``__all__`` is sorted and true."""
    assert leveret.__all__ == sorted(leveret.__all__)
    for name in leveret.__all__:
        assert hasattr(leveret, name), name
