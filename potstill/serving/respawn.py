"""Between `bentoml serve` and its worker: a worker that dies is replaced at once, one that cannot start ends the
service, and none outlives it.

`bentoml serve` has circus look for dead workers every 10 seconds, a number that no setting reaches
(`create_standalone_arbiter`), and starting one takes seconds more. But circus has a signal: at SIGHUP it starts a
worker, and then sorts out what is dead or too many.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from bentoml.serving import running_inside_container

from potstill.compute.processes import die_with_parent

# A worker that dies again so soon after one was replaced waits for circus' own look: one that cannot start must not be
# started without a pause.
PAUSE_SECONDS = 10.0
# In a worker's environment: the process that started it.
_SUPERVISOR = "POTSTILL_SUPERVISOR"


def name_supervisor() -> None:
    """Tell workers, which get this process's environment, who supervises them."""
    os.environ[_SUPERVISOR] = str(os.getpid())


def end_with_supervisor() -> None:
    """In a worker: die with its supervisor, kill -9 of it included, and at once where that is dead already.

    A worker lives in a session of its own: without this it outlives a killed `bentoml serve`, and holds the port.
    """
    supervisor = os.environ.pop(_SUPERVISOR, None)
    if supervisor is not None:
        die_with_parent(int(supervisor))


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
        ready, child = callable(signal.getsignal(signal.SIGHUP)), _dead_child()
        if not ready or child is None:
            return
        if child.si_code == os.CLD_EXITED and child.si_status != 0:
            # It could not start and has said why; the next one could not either.
            sys.exit(child.si_status)
        if time.monotonic() - replaced >= PAUSE_SECONDS:
            replaced = time.monotonic()
            os.kill(os.getpid(), signal.SIGHUP)

    signal.signal(signal.SIGCHLD, died)


def _dead_child() -> os.waitid_result | None:
    """A child that has ended, and was not only stopped or continued; it stays for circus to reap."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
