"""Child processes that never outlive their parent, and locks that are free once their holder has died."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from potstill.artifacts import is_at, make_folder
from potstill.causes import DENIED
from potstill.errors import BusyError, ToolError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies, even by kill -9. Does nothing outside Linux.

    Args:
        parent: pid of the parent if known, so that its death before this call counts too; None takes the present one.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the request was in place
        os.kill(os.getpid(), signal.SIGKILL)


def start(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a new process group; it dies with this process."""
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
    """End a child's process group by SIGTERM, then SIGKILL after the grace time; return the child's exit status."""
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
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> int:
    """Run a child and return its exit status; an interrupt ends its process group."""
    process = start(command, cwd=cwd, environment=environment, stdout=stdout, stderr=stderr)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            stop(process)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Have SIGTERM and Ctrl-C set an event, so that a loop can end after the work that it has begun.

    To be called in the main thread; the handlers before are restored at the end.
    """
    event = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: event.set()) for number in numbers]
    try:
        yield event
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use: on macOS, which does not say, all of the machine.

    Thread pools, `torchrun` and `potstill doctor` all take the number from here. It is at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def free_port() -> int:
    """Find a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listen(host: str, port: int, *, advice: str, backlog: int = 1) -> socket.socket:
    """Open a listening socket; port 0 takes a free port.

    Raises:
        ToolError: another process listens there, or this machine does not have the address; the message ends with
            `advice`.
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
    """Hold a lock file (flock) inside the context; the death of a holder frees its lock.

    Raises:
        BusyError: another process holds the lock; the message names its pid.
        ToolError: the folder of the lock cannot be written.
    """
    end = time.monotonic() + wait_seconds
    while (descriptor := _try_lock(lock, what)) is None:
        if time.monotonic() >= end:
            holder = last_holder(lock) or "unknown"
            raise BusyError(
                f"{what} is already going on in {lock.parent.parent.resolve()} (process {holder}); "
                "wait for it or stop it, then run again"
            )
        time.sleep(0.05)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(lock: Path, what: str) -> int | None:
    """Open and lock a lock file, and return its descriptor; None where another process holds it."""
    while True:
        descriptor = _open_lock(lock, what)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # whoever held it has removed it


def _open_lock(lock: Path, what: str) -> int:
    try:
        while True:
            make_folder(lock.parent)
            with suppress(FileNotFoundError):  # whoever held it has removed the folder just now
                return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        raise ToolError(
            f"{lock.parent} cannot be written ({error.strerror}), which {what} needs; make it writable "
            "or work in a copy"
        ) from error


def last_holder(lock: Path) -> int | None:
    """Return the process that holds a lock file, or held it last; None if nobody did."""
    try:
        text = lock.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None
