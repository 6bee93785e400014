"""One DVC stage as a child process.

The child leads a process group of its own, in which DVC starts the stage's command. It dies with its parent. The group
is ended when the stage runs past its limit or the run is interrupted. The fork server, which forks the child, has
loaded DVC once for all stages of a run.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from flows.engine.flow_errors import StageError
from potstill.causes import causes, full_disk
from potstill.compute.processes import die_with_parent
from potstill.errors import DiskFullError, PotstillError, TimeLimitError

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "dvc.repo"])
GRACE_SECONDS = 5.0


def load_ahead() -> None:
    """Start the fork server early, so that the first stage does not wait for it to load DVC."""
    forkserver.ensure_running()


def reproduce(stage: str, workspace: Path, environment: Mapping[str, str], limit_seconds: float) -> None:
    """Have DVC bring one stage up to date, and only it (`dvc repro --single-item`).

    Args:
        stage: its name in dvc.yaml.
        workspace: folder of dvc.yaml.
        environment: variables for the stage's command, added to this process's own.
        limit_seconds: after this time it is ended with everything it has started.

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
        _raise_failure(process, receiver)
    finally:
        if process.is_alive():
            _end(process)
        receiver.close()


def _raise_failure(process: ForkServerProcess, receiver: Connection) -> None:
    """Raise the error that the child has sent; it sends None after a success."""
    try:
        failure = receiver.recv()
    except EOFError:
        # A command that is still importing modules has not yet asked to die with its parent.
        _kill_group(process.pid or 0)
        message = f"stage {process.name} ended without an answer (status {process.exitcode}); run again"
        raise PotstillError(message) from None
    if failure is not None:
        raise failure


def _child(stage: str, workspace: str, environment: Mapping[str, str], sender: Connection) -> None:
    os.setpgid(0, 0)
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(workspace)
    # The parent is the fork server, which ends only after its children, so the run itself is watched.
    threading.Thread(target=_end_with_run, daemon=True).start()
    # DVC survives a SIGTERM to the group, so that the command has its grace time before the group is killed.
    signal.signal(signal.SIGTERM, lambda *_: None)
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    failure = None
    try:
        Repo().reproduce(stage, single_item=True)
    except Exception as error:
        failure = _failure(stage, Path(workspace), error)
    sender.send(failure)
    sys.stdout.flush()


def _end_with_run() -> None:
    """Kill this process's whole group when the process that asked for it has died, kill -9 included."""
    run = multiprocessing.parent_process()
    if run is not None:
        wait([run.sentinel])
    os.killpg(0, signal.SIGKILL)


def _failure(stage: str, workspace: Path, error: Exception) -> PotstillError:
    """What DVC's error is about: the innermost of its chain, without what that made impossible."""
    if (disk := full_disk(error, f"the outs of {stage} to the cache in {workspace / '.dvc'}")) is not None:
        return disk
    innermost = list(causes(error))[-1]
    message = f"stage {stage}: {' '.join(str(innermost).split())}"
    if message.endswith(f"exited with {DiskFullError.exit_code}"):
        return StageError(message, DiskFullError.exit_code)  # it could not leave its sentence in a file
    return PotstillError(message)


def _end(process: ForkServerProcess) -> None:
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 30.0)):
        with suppress(ProcessLookupError):  # it has ended already, or not made its group yet
            os.killpg(process.pid or 0, number)
        process.join(seconds)
        if not process.is_alive():
            break
    else:
        process.kill()
    _kill_group(process.pid or 0)


def _kill_group(group: int) -> None:
    """What the stage's command had started may outlive it by a moment."""
    end = time.monotonic() + GRACE_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
