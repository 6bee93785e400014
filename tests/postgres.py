"""A PostgreSQL cluster for tests, from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from potstill.compute.processes import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def need_postgres() -> None:
    """Skip where PostgreSQL is not installed; where CI is set, a skip fails."""
    if BINARIES:
        return
    pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a cluster; yields the URI of its database."""
    # Not below pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="potstill-postgres-") as folder:
        yield from _run(Path(folder))


def _run(folder: Path) -> Iterator[str]:
    port, owner = free_port(), None
    if os.getuid() == 0:  # PostgreSQL does not run as root
        owner = pwd.getpwnam("postgres")
        shutil.chown(folder, owner.pw_uid, owner.pw_gid)

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [BINARIES[-1] / program, *arguments], user=owner.pw_uid if owner else None, cwd=folder, check=True,
            group=owner.pw_gid if owner else None, extra_groups=[] if owner else None, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "potstill", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C")
    settings = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-D", data, "-o", settings, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://potstill@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
