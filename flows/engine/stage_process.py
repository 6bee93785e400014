"""A DVC stage, or another step of a run, as a child process.

The child leads a process group of its own, in which DVC starts the stage's command. The group is ended with the run,
and when the stage or step runs past its limit or the run is interrupted. The fork server, which forks the children, has
loaded DVC once for all stages of a run.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
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
from typing import TypeVar, cast

from flows.engine.flow_errors import StageError
from potstill.causes import NO_SPACE, causes, full_disk, machine_error, unexpected
from potstill.errors import DiskFullError, PotstillError, TimeLimitError
from potstill.paths import LOGS
from potstill.registry.store_calls import RUN, patience

Answer = TypeVar("Answer")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "dvc.repo"])
GRACE_SECONDS = 5.0
# A poll of more than 24 days is an error of the system's.
_POLL_SECONDS = 86_400.0


def load_ahead() -> None:
    """Start the fork server early, so that the first stage does not wait for it to load DVC."""
    forkserver.ensure_running()


@dataclass(frozen=True)
class Limit:
    """How long a child process may go on.

    Attributes:
        subject: what has the limit, as a sentence names it.
        key: key of params.yaml that sets it.
        minutes: the limit.
        past_minutes: how much of it has passed before.
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
    child = Child(workspace, {**path, **environment})
    try:
        child.call(_reproduce, stage, limit=limit)
    finally:
        child.close()


class Child:
    """A child process that calls one function after another."""

    def __init__(self, workspace: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            workspace: its current folder.
            environment: variables that are added to those of this process.
        """
        self._connection, inner = _context.Pipe()
        variables = {**os.environ, **(environment or {})}
        self._process = _context.Process(target=_serve, args=(str(workspace), variables, inner))
        self._process.start()
        inner.close()

    def is_alive(self) -> bool:
        """Whether it can be called: it ends with a call that does not answer."""
        return self._process.is_alive()

    def call(self, function: Callable[..., Answer], *arguments: object, limit: Limit) -> Answer:
        """Call a function there.

        Args:
            function: it is pickled, and so are its arguments and its answer.
            arguments: its arguments.
            limit: after this time the process is ended with everything it has started.

        Raises:
            TimeLimitError: it ran past its limit.
            PotstillError: the function's own error, or a sentence about any other exception.
        """
        answered = False
        try:
            self._connection.send((function, arguments))
            end = time.monotonic() + limit.seconds
            while not self._connection.poll(min(_POLL_SECONDS, max(0.0, end - time.monotonic()))):
                if time.monotonic() >= end:
                    raise limit.error()
            answer = self._connection.recv()
            answered = True
        except (EOFError, ConnectionError):
            self._process.join(GRACE_SECONDS)
            status = self._process.exitcode
            raise PotstillError(f"{limit.subject} ended without an answer (status {status}); run again") from None
        finally:
            if not answered:  # what it had started may live, also where it has died itself
                _end(self._process)
        if isinstance(answer, PotstillError):
            raise answer
        return cast("Answer", answer)

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.join(GRACE_SECONDS)
        if self._process.is_alive():
            _end(self._process)


def _serve(workspace: str, environment: Mapping[str, str], connection: Connection) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(workspace)
    threading.Thread(target=_end_with_run, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what it has started is ended in order
    with suppress(EOFError, ConnectionError, KeyboardInterrupt), patience(RUN):
        while True:
            function, arguments = connection.recv()
            answer = _answer(function, arguments)
            sys.stdout.flush()
            connection.send(answer)


def _answer(function: Callable[..., object], arguments: tuple[object, ...]) -> object:
    """Return what a function returns, or its error."""
    try:
        return function(*arguments)
    except PotstillError as error:
        return error
    except Exception as error:
        return machine_error(error) or PotstillError(unexpected(error, LOGS / "potstill.txt")[0])


def _reproduce(stage: str) -> None:
    # DVC survives a SIGTERM to the group, so that the command has its grace time before the group is killed.
    signal.signal(signal.SIGTERM, lambda *_: None)
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    copies = _FailedCopies(logging.getLogger("dvc_data"))
    repo = Repo()
    try:
        repo.reproduce(stage, single_item=True)
        copies.raise_any()
    except Exception as error:
        raise _failure(stage, error, repo.cache.local.path) from error


class _FailedCopies(logging.Handler):
    """Keeps why copies to the cache failed: DVC logs it, and goes on as if they were there."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.ERROR)
        self._errors: list[BaseException] = []
        logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self._errors.append(record.exc_info[1])

    def raise_any(self) -> None:
        """Raise an error if any copy failed: about all that failed for want of space, if any did.

        What DVC has left of those is removed.
        """
        full = [error for error in self._errors if isinstance(error, OSError) and error.errno in NO_SPACE]
        for error in full:
            if error.filename2 is not None:
                Path(error.filename2).unlink(missing_ok=True)
        if full:
            raise shutil.Error([(error.filename, error.filename2, str(error)) for error in full])
        if self._errors:
            raise self._errors[0]


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


def _failure(stage: str, error: Exception, cache: str) -> PotstillError:
    """Say what DVC's error is about: the innermost of its chain, without what that made impossible."""
    if (disk := full_disk(error, cache)) is not None:
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
    """Kill what is left of a group: what a stage's command had started may outlive it by a moment."""
    end = time.monotonic() + GRACE_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
