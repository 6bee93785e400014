"""Runs one DVC stage in a child process, forked from a server that has imported DVC and the stage's slow modules.

The child leads a process group of its own, dies with its parent, and is ended as a group past its time limit or when
the run is interrupted. DVC starts the stage's command in that group, and the command hands the stage over to a process
that the child has forked for it (`potstill/compute/standby.py`). That saves some seconds of imports for each stage.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from flows.engine.flow_errors import StageError
from potstill.causes import causes, full_disk
from potstill.compute.processes import die_with_parent
from potstill.compute.standby import ADDRESS, SLOW_MODULES, stand_by
from potstill.errors import DiskFullError, PotstillError, TimeLimitError
from potstill.paths import WORK

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "dvc.repo", *SLOW_MODULES])
_SOCKET = WORK / "standby.sock"
GRACE_SECONDS = 5.0


def load_ahead() -> None:
    """Start the fork server early, so that the first stage does not wait for its imports."""
    forkserver.ensure_running()


def reproduce(stage: str, workspace: Path, environment: Mapping[str, str], limit_seconds: float) -> bool:
    """Have DVC bring one stage up to date, and only it (`dvc repro --single-item`).

    Args:
        stage: its name in dvc.yaml.
        workspace: folder of dvc.yaml.
        environment: variables for the stage's command, in addition to this process's own.
        limit_seconds: after this time it is ended with everything it has started.

    Returns:
        Whether DVC did anything: it ran the command, or took the outs from its cache.

    Raises:
        TimeLimitError: it ran past its limit.
        PotstillError: DVC or the command failed; the message is DVC's.
    """
    receiver, sender = _context.Pipe(duplex=False)
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
    variables = {**os.environ, **path, **environment}
    process = _context.Process(target=_child, args=(stage, str(workspace), variables, sender), name=stage)
    process.start()
    sender.close()
    try:
        process.join(limit_seconds)
        if process.is_alive():
            raise TimeLimitError(
                f"stage {stage} ran past its limit of {limit_seconds / 60:g} minutes and was ended with all it had "
                "started; raise schedule.stage_minutes in params.yaml if it needs longer"
            )
        return _receive_result(stage, receiver, process.exitcode)
    finally:
        if process.is_alive():
            _end(process)
        receiver.close()


def _receive_result(stage: str, receiver: Connection, exitcode: int | None) -> bool:
    try:
        changed, failure = receiver.recv()
    except EOFError:
        raise PotstillError(f"stage {stage} ended without an answer (status {exitcode}); run again") from None
    if failure is not None:
        raise failure
    return bool(changed)


def _child(stage: str, workspace: str, environment: Mapping[str, str], sender: Connection) -> None:
    os.setpgid(0, 0)
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(workspace)
    with _standby_process():
        # The parent is the fork server, which ends only after its children, so the run itself is watched.
        threading.Thread(target=_end_with_run, daemon=True).start()
        # DVC survives a SIGTERM to the group, so that the command has its grace time before the group is killed.
        signal.signal(signal.SIGTERM, lambda *_: None)
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        try:
            sender.send((bool(Repo().reproduce(stage, single_item=True)), None))
        except Exception as error:
            sender.send((False, _failure(stage, error)))
    sys.stdout.flush()


@contextmanager
def _standby_process() -> Iterator[None]:
    """Hold a process ready for the stage's command, where forking with loaded libraries is safe."""
    if not sys.platform.startswith("linux"):
        yield
        return
    os.environ[ADDRESS] = str(_SOCKET)
    pid = stand_by(_SOCKET)
    try:
        yield
    finally:  # it still waits if DVC ran no command
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _SOCKET.unlink(missing_ok=True)


def _end_with_run() -> None:
    """Kill this process's whole group once the run has died, even by SIGKILL."""
    run = multiprocessing.parent_process()
    if run is not None:
        wait([run.sentinel])
    os.killpg(0, signal.SIGKILL)


def _failure(stage: str, error: Exception) -> PotstillError:
    """Return the cause of DVC's error: the innermost exception of its chain, without its consequences."""
    if (disk := full_disk(error)) is not None:
        return disk
    innermost = list(causes(error))[-1]
    message = f"stage {stage}: {' '.join(str(innermost).split())}"
    if message.endswith(f"exited with {DiskFullError.exit_code}"):
        return StageError(message, DiskFullError.exit_code)  # with the disk full it could not write FAILURE
    return PotstillError(message)


def _end(process: ForkServerProcess) -> None:
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 30.0)):
        with suppress(ProcessLookupError):  # it has ended already, or has no group yet
            os.killpg(process.pid or 0, number)
        process.join(seconds)
        if not process.is_alive():
            break
    else:
        process.kill()
    _kill_group(process.pid or 0)


def _kill_group(group: int) -> None:
    """Wait for the processes that the stage's command started, which may outlive it by a moment, then kill them."""
    end = time.monotonic() + GRACE_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
