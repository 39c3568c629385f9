"""A child for the pool's tests: each job's body says what to do, and the report is the body again.

``echo`` · ``exit:N`` · ``kill`` · ``fork`` (come back twice, and report how the copy ended) · ``close`` (the data socket) ·
``wait:FILE`` (until it exists) · ``hold:FILE`` (create it, then keep the main thread and the GIL busy until it is gone) ·
``started:FILE`` (create it, then never end) · ``garbage`` (nonsense on the data socket).
"""

from __future__ import annotations

import ast
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from leveret.pools.child import Handles, Started, StartFailure, live
from leveret.pools.serial import SerialExecutor
from leveret.pools.wire import Job


def run(job: Job) -> object:
    """Do what the body says."""
    word, _, rest = job.body.decode().partition(":")
    match word:
        case "exit":
            os._exit(int(rest))
        case "close":
            os.close(HANDLES.data)
        case "fork":
            if not os.fork():
                return b"copy"
            _, status = os.wait()
            return str(os.waitstatus_to_exitcode(status)).encode()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            pause = threading.Event()
            while not Path(rest).exists():
                pause.wait(0.002)
        case "hold":
            Path(rest).touch()
            while Path(rest).exists():
                sum(range(100_000))
        case "started":
            Path(rest).touch()
            threading.Event().wait()
        case "garbage":
            socket.socket(fileno=HANDLES.data).sendall(b"\x00\x00\x00\x01\xc1")
            threading.Event().wait()
    return job.body


def start() -> Started:
    """Start, or do as the second argument says."""
    match sys.argv[2]:
        case "refuse":
            raise StartFailure(b"no such app")
        case "die":
            os._exit(9)
    return Started(SerialExecutor(), run, str(os.getpid()).encode())


HANDLES = Handles(*ast.literal_eval(sys.argv[1]))

if __name__ == "__main__":
    sys.exit(live(HANDLES, start))
