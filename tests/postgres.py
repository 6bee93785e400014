"""A PostgreSQL cluster for tests, from Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from potstill.compute.processes import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_OWNER = "postgres"


def need_postgres() -> None:
    """Skip where PostgreSQL is not installed; where CI is set, a skip fails."""
    if BINARIES:
        return
    pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a cluster; yields the URI of its database."""
    with cluster() as running:
        yield running.uri


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster that can be restarted."""
    # Not below pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="potstill-postgres-") as folder:
        running = Cluster(Path(folder), free_port())
        running.create()
        try:
            yield running
        finally:
            running.stop()


@dataclass(frozen=True)
class Cluster:
    """The databases of a folder, and the server that has them.

    Attributes:
        folder: where they are.
        port: where the server listens, on loopback.
    """

    folder: Path
    port: int

    @property
    def uri(self) -> str:
        """The address of the first database."""
        return f"postgresql://potstill@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Create the cluster and start its server."""
        if os.getuid() == 0:
            shutil.chown(self.folder, _OWNER, _OWNER)
        self._call("initdb", "-U", "potstill", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C")
        self._start()

    def stop(self) -> None:
        """Stop the server as its crash would: all connections end, and what is not committed is undone."""
        self._call("pg_ctl", "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """Stop the server, see `stop`, and start it again."""
        self.stop()
        self._start()

    def _start(self) -> None:
        settings = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
        self._call("pg_ctl", "-o", settings, "-l", str(self.folder / "log"), "-w", "start")

    def _call(self, program: str, *arguments: str) -> None:
        user = _OWNER if os.getuid() == 0 else None  # PostgreSQL does not run as root
        subprocess.run(
            [BINARIES[-1] / program, "-D", self.folder / "data", *arguments], user=user, group=user, cwd=self.folder,
            extra_groups=[] if user else None, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
