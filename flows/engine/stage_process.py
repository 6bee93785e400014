"""A DVC stage, or another step of a run, as a child process.

The child leads a process group of its own, in which DVC starts the stage's command. The group is ended with the run,
and when the stage or step runs past its limit or the run is interrupted. The fork server, which forks the child, has
loaded DVC and MLflow once for all of a run.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar, cast

from flows.engine.flow_errors import StageError
from potstill.causes import causes, full_disk, unexpected
from potstill.errors import DiskFullError, PotstillError, TimeLimitError
from potstill.paths import LOGS
from potstill.registry.store_calls import RUN, patience

Answer = TypeVar("Answer")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "dvc.repo", "mlflow.tracking"])
GRACE_SECONDS = 5.0


def load_ahead() -> None:
    """Start the fork server early, so that the first stage does not wait for it to load DVC and MLflow."""
    forkserver.ensure_running()


@dataclass(frozen=True)
class Limit:
    """How long a child process may go on.

    Attributes:
        subject: what has the limit, as a sentence names it.
        key: key of params.yaml that sets it.
        minutes: the limit.
        past_minutes: how much of it had passed when the child was started.
    """

    subject: str
    key: str
    minutes: float
    past_minutes: float = 0.0

    @property
    def seconds(self) -> float:
        """What is left of it."""
        return 60 * max(0.0, self.minutes - self.past_minutes)

    def error(self) -> TimeLimitError:
        """Say that it is over."""
        return TimeLimitError(
            f"{self.subject} ran past its limit of {self.minutes:g} minutes and was ended with all it had started; "
            f"raise {self.key} in params.yaml if it needs longer"
        )


def reproduce(stage: str, workspace: Path, environment: Mapping[str, str], limit: Limit) -> None:
    """Have DVC bring one stage up to date, and only it (`dvc repro --single-item`).

    Args:
        stage: its name in dvc.yaml.
        workspace: folder of dvc.yaml.
        environment: variables for the stage's command, added to this process's own.
        limit: after this time it is ended with everything it has started.

    Raises:
        TimeLimitError: it ran past its limit.
        PotstillError: DVC or the command failed; the message is DVC's.
    """
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
    call(_reproduce, stage, workspace=workspace, environment={**path, **environment}, limit=limit)


def call(
    function: Callable[..., Answer],
    *arguments: Any,
    workspace: Path,
    limit: Limit,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Call a function in a child process.

    Args:
        function: it is pickled, and so are its arguments and its answer.
        arguments: its arguments.
        workspace: the child's current folder.
        limit: after this time the child is ended with everything it has started.
        environment: variables of the child, added to this process's own.

    Raises:
        TimeLimitError: it ran past its limit.
        PotstillError: the function's own error, or a sentence about any other exception.
    """
    receiver, sender = _context.Pipe(duplex=False)
    variables = {**os.environ, **(environment or {})}
    process = _context.Process(target=_child, args=(function, arguments, str(workspace), variables, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit.seconds):
            raise limit.error()
        answer = _receive(process, receiver, limit.subject)
        process.join(GRACE_SECONDS)
        return cast("Answer", answer)
    finally:
        if process.is_alive():
            _end(process)
        receiver.close()


def _receive(process: ForkServerProcess, receiver: Connection, subject: str) -> object:
    """Return what the child has sent, or raise it."""
    try:
        answer = receiver.recv()
    except EOFError:
        process.join(GRACE_SECONDS)
        # A command that is still importing modules has not yet asked to die with its parent.
        _kill_group(process.pid or 0)
        raise PotstillError(f"{subject} ended without an answer (status {process.exitcode}); run again") from None
    if isinstance(answer, PotstillError):
        raise answer
    return answer


def _child(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    workspace: str,
    environment: Mapping[str, str],
    sender: Connection,
) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(workspace)
    threading.Thread(target=_end_with_run, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what it has started is ended in order
    try:
        with patience(RUN):
            answer = function(*arguments)
    except KeyboardInterrupt:
        return
    except PotstillError as error:
        answer = error
    except Exception as error:
        answer = full_disk(error, workspace) or PotstillError(unexpected(error, Path(LOGS, "potstill.txt"))[0])
    sender.send(answer)
    sys.stdout.flush()


def _reproduce(stage: str) -> None:
    # DVC survives a SIGTERM to the group, so that the command has its grace time before the group is killed.
    signal.signal(signal.SIGTERM, lambda *_: None)
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        Repo().reproduce(stage, single_item=True)
    except Exception as error:
        raise _failure(stage, error) from error


def _end_with_run() -> None:
    """Kill this process's whole group when the run or the fork server has died, kill -9 included.

    The kernel's own signal at a parent's death would reach this process alone, and leave what the command has started.
    """
    run = multiprocessing.parent_process()
    watched: list[int] = [] if run is None else [run.sentinel]
    if sys.platform == "linux":
        watched.append(os.pidfd_open(os.getppid()))
    if watched:
        wait(watched)
    os.killpg(0, signal.SIGKILL)


def _failure(stage: str, error: Exception) -> PotstillError:
    """What DVC's error is about: the innermost of its chain, without what that made impossible."""
    if (disk := full_disk(error)) is not None:
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
