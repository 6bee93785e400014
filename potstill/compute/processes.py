"""Child processes that never outlive their parent, and locks that a dead holder frees."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from potstill.errors import BusyError, TimeLimitError, ToolError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies, kill -9 of the parent included. Linux; else no-op.

    Args:
        parent: its pid, where it is known: then it may also have died before. None: whoever it is now.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was in place
        os.kill(os.getpid(), signal.SIGKILL)


def start(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own that dies with the calling thread's process."""
    return subprocess.Popen(
        list(command),
        cwd=cwd,
        env=dict(os.environ if environment is None else environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
        preexec_fn=die_with_parent,
    )


def stop(process: subprocess.Popen[bytes], grace_seconds: float = 5.0) -> int:
    """End a child's whole group: SIGTERM, then SIGKILL for what is left after the grace time. Gives its exit status."""
    for number, wait in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 30.0)):
        _signal_group(process.pid, number)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        if number is signal.SIGTERM:
            _wait_for_group(process.pid, grace_seconds)
    return process.wait()


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    limit_seconds: float | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> int:
    """Run a child to its end and return its exit status; on an interrupt or past the limit its group is ended first.

    Raises:
        TimeLimitError: it ran past `limit_seconds`.
    """
    process = start(command, cwd=cwd, environment=environment, stdout=stdout, stderr=stderr)
    try:
        return process.wait(limit_seconds)
    except subprocess.TimeoutExpired as error:
        raise TimeLimitError(
            f"`{' '.join(command)}` ran past its limit of {limit_seconds:.0f} s and was ended with all it had started; "
            "raise schedule.stage_minutes in params.yaml if it needs longer"
        ) from error
    finally:
        if process.poll() is None:
            stop(process)


def usable_cores() -> int:
    """The number of CPU cores that this process may run on; all of the machine where the system does not say (macOS).

    The one owner of that number: thread pools, `torchrun` and `potstill doctor` ask here. At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listen(host: str, port: int, *, advice: str, backlog: int = 1) -> socket.socket:
    """A socket that listens there; port 0: on a free one.

    Raises:
        ToolError: another process listens there, or it is no address of this machine; the sentence ends with `advice`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise ToolError(f"cannot listen on {host} port {port} ({error.strerror}); {advice}") from error


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group may have ended already
        os.killpg(group, number)


def _wait_for_group(group: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.05)


@contextmanager
def hold(lock: Path, *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold `lock` (flock) for the duration; a holder that died, however it died, holds nothing.

    Raises:
        BusyError: another process holds it; the message names its pid.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
                    raise BusyError(
                        f"{what} is already going on in {lock.parent.parent.resolve()} (process {holder}); "
                        "wait for it or stop it, then run again"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
