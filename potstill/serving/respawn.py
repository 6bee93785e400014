"""Supervision of the worker of `bentoml serve`.

A worker that dies is replaced at once, a worker that cannot start ends the service, and no worker outlives the service.

`bentoml serve` has circus look for dead workers every 10 seconds, which no setting changes
(`create_standalone_arbiter`), and starting a worker takes seconds more. But at SIGHUP circus starts a worker at once,
and then removes dead and surplus ones.
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

# A worker that dies again within this time waits for circus' own check, so that a crashing worker is not restarted
# without a pause.
PAUSE_SECONDS = 10.0
# Environment variable of a worker: pid of its supervisor.
_SUPERVISOR = "POTSTILL_SUPERVISOR"


def name_supervisor() -> None:
    """Pass this process's pid to its workers, which inherit its environment."""
    os.environ[_SUPERVISOR] = str(os.getpid())


def end_with_supervisor() -> None:
    """Make this worker die with its supervisor, even by kill -9, and at once if that is already dead.

    A worker runs in a separate session. Without this it would outlive a killed `bentoml serve` and keep the port.
    """
    supervisor = os.environ.pop(_SUPERVISOR, None)
    if supervisor is not None:
        die_with_parent(int(supervisor))


def respawn_workers() -> None:
    """Make circus, which this process is about to run, replace a dead worker as soon as the kernel reports it.

    Does nothing in a thread other than the main one, which cannot handle signals, and in a container, which ends with
    its worker and is restarted by its orchestrator.
    """
    if threading.current_thread() is not threading.main_thread() or running_inside_container():
        return
    last_respawn = -PAUSE_SECONDS

    def handle_sigchld(number: int, frame: FrameType | None) -> None:
        nonlocal last_respawn
        # Before circus has started, and after it has stopped, SIGHUP would end the process.
        is_handled = callable(signal.getsignal(signal.SIGHUP))
        child = _dead_child()
        if not is_handled or child is None:
            return
        if child.si_code == os.CLD_EXITED and child.si_status != 0:
            # The worker could not start and has printed why; the next one could not start either.
            sys.exit(child.si_status)
        if time.monotonic() - last_respawn >= PAUSE_SECONDS:
            last_respawn = time.monotonic()
            os.kill(os.getpid(), signal.SIGHUP)

    signal.signal(signal.SIGCHLD, handle_sigchld)


def _dead_child() -> os.waitid_result | None:
    """Find a child that has ended, not one that was stopped or continued; circus still reaps it."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
