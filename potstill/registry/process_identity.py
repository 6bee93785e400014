"""The identity of a process across machines, and whether it has certainly ended.

Paths and process ids repeat between machines and containers. A process is therefore identified together with its
machine, the boot of that machine and its pid namespace.
"""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Identity:
    """A process, unique over machines, containers and reboots.

    Attributes:
        user: name of the account.
        host: name of the machine.
        machine: id that distinguishes machines of the same name.
        boot: id of the machine's boot; empty if the system has none.
        namespace: the pid namespace; each container has one.
        pid: process id.
        started: start time, in a unit of the system.
    """

    user: str
    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: str

    @property
    def name(self) -> str:
        """`user@host`, as the ledger shows it."""
        return f"{self.user}@{self.host}"

    def has_ended(self) -> bool:
        """Whether the process has certainly ended; False if this machine cannot know."""
        current = this_process()
        if (self.host, self.machine, self.namespace) != (current.host, current.machine, current.namespace):
            return False
        if self.boot != current.boot:
            return True
        return _start_time(self.pid) != self.started


def this_process() -> Identity:
    """Return the identity of the calling process."""
    return _identity(os.getpid())


def read_identity(values: Any) -> Identity | None:
    """Read an identity from its values, as `asdict` returns them; None if they are not valid."""
    with suppress(TypeError):
        return Identity(**values)
    return None


@lru_cache(maxsize=2)  # by pid: a forked child is another process
def _identity(pid: int) -> Identity:
    return Identity(
        user=_user(),
        host=socket.gethostname(),
        machine=_read("/etc/machine-id"),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
        pid=pid,
        started=_start_time(pid) or "",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in containers
        return str(os.getuid())


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8").strip()
    return ""


def _start_time(pid: int) -> str | None:
    """Return the start time of a process, or None. Linux gives it in ticks, which no clock change shifts."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def has_process(pid: int) -> bool:
    """Whether this machine has a running process with a pid."""
    return _start_time(pid) is not None
