"""Runs one stage in several processes, by torch's own launcher, `torchrun`.

`python -m tasks.torchrun` is that launcher. Its processes know its pid, and so notice if it has died before they could
ask the kernel to die with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from potstill.compute import processes

_LAUNCHER = "POTSTILL_LAUNCHER"


def launcher() -> int | None:
    """Return the pid of the launcher that started this process; None where another launcher did, or none."""
    pid = os.environ.get(_LAUNCHER)
    return None if pid is None or not inside() else int(pid)


def inside() -> bool:
    """Whether `torchrun` started this process, through this module or not."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first() -> bool:
    """Whether this is the process that writes."""
    return os.environ.get("RANK", "0") == "0"


def run(module: str, count: int, log: Path) -> int:
    """Run a module in that many processes on this machine, and return the exit status.

    They die with this process, share the cores, and end together when one fails. Their standard errors go to the log,
    where the launcher reports a failure at length.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(max(processes.usable_cores() // count, 1))}
    command = [sys.executable, "-m", "tasks.torchrun", "--standalone", f"--nproc-per-node={count}"]
    with log.open("wb") as errors:
        return processes.run([*command, "-m", module], environment=threads | dict(os.environ), stderr=errors)


if __name__ == "__main__":
    from torch.distributed.run import main

    os.environ[_LAUNCHER] = str(os.getpid())
    main(sys.argv[1:])
