"""The garbage collector's settings, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from leveret.broker.collector import ENDED_MAX, Collector

class Cycle:
    alive = 0
    def __init__(self):
        self.me = self
        Cycle.alive += 1
    def __del__(self):
        Cycle.alive -= 1

collector = Collector()
runs = []
gc.callbacks.append(lambda phase, info: runs.append(info["generation"]) if phase == "start" else None)
waiting = [[] for _ in range(1_000_000)]
assert 2 not in runs, "a full run over what waits"
[Cycle() for _ in range(100)]
assert Cycle.alive == 100
for _ in range(ENDED_MAX):
    collector.connection_ended()
assert runs[-1] == 2
assert Cycle.alive == 0, Cycle.alive
print("done")
"""


def test_a_million_waiting_messages_cause_no_full_run() -> None:
    """Only young objects are looked through, until many connections have ended: then everything, once."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.stdout, ended.stderr) == ("done\n", "")
