"""Several processes for one stage, started by torch's own launcher, `torchrun`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from potstill import processes


def inside() -> bool:
    """Whether `torchrun` started this process, in whatever way that came about."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first() -> bool:
    """Whether this is the process that writes."""
    return os.environ.get("RANK", "0") == "0"


def run(module: str, count: int, log: Path) -> int:
    """Run a module as that many processes of this machine and give the exit status.

    They die with this process, share the cores, and end together when one fails. Their standard errors go to the log:
    the launcher reports a failure there at length.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(cores // count, 1))}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    with log.open("wb") as errors:
        return processes.run([*launcher, "-m", module], environment=threads | dict(os.environ), stderr=errors)
