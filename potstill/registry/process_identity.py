"""Who a process is, on which machine, and whether it has certainly ended.

Paths and process ids repeat between machines and containers, so each is named together with the machine, its present
boot and the namespace of its process ids.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import asdict, dataclass
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
        machine: what tells machines of one name apart.
        boot: id of the machine's boot; empty where the system has none.
        namespace: of process ids: that of a container is its own.
        pid: process id.
        started: when it started, in the system's own unit.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `read_identity` makes it again."""
        return asdict(self)

    def has_ended(self) -> bool:
        """Whether the process is known to have ended; False where this machine cannot know."""
        here = this_process()
        if (self.host, self.machine, self.namespace) != (here.host, here.machine, here.namespace):
            return False
        if self.boot != here.boot:
            return True
        return _start_of(self.pid) != self.started


def this_process() -> Identity:
    """The identity of the calling process."""
    return _identity(os.getpid())


def read_identity(values: Any) -> Identity | None:
    """An identity from its plain values; None where they are not those of one."""
    try:
        return Identity(**values)
    except TypeError:
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
        started=_start_of(pid) or "",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return str(os.getuid())


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process started; None if there is none with that id. On Linux in ticks, which no clock can shift."""
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
    """Whether this machine has a process of that id that has not ended."""
    return _start_of(pid) is not None
