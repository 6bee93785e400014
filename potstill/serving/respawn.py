"""A worker that dies is replaced at once.

`bentoml serve` has circus look for dead workers every 10 seconds, a number that no setting reaches
(`create_standalone_arbiter`), and starting one takes seconds more. But circus has a signal: at SIGHUP it starts a
worker, and then sorts out what is dead or too many.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from bentoml.serving import running_inside_container

# A worker that dies again so soon after one was replaced waits for circus' own look: one that cannot start must not be
# started without a pause.
PAUSE_SECONDS = 10.0


def respawn_workers() -> None:
    """Have circus, which this process is about to become, replace a dead worker when the kernel reports it.

    Nothing is changed where `bentoml.serve` was called in a thread: only the main one may handle signals. Nor in a
    container, which ends with its worker, and whose orchestrator starts another.
    """
    if threading.current_thread() is not threading.main_thread() or running_inside_container():
        return
    replaced = -PAUSE_SECONDS

    def died(number: int, frame: FrameType | None) -> None:
        nonlocal replaced
        # While circus is not there, or has stopped, SIGHUP would end the process.
        ready = callable(signal.getsignal(signal.SIGHUP))
        if ready and _has_dead_child() and time.monotonic() - replaced >= PAUSE_SECONDS:
            replaced = time.monotonic()
            os.kill(os.getpid(), signal.SIGHUP)

    signal.signal(signal.SIGCHLD, died)


def _has_dead_child() -> bool:
    """Whether a child has ended, and was not only stopped or continued; it stays for circus to reap."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
