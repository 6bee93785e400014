"""Several processes for one stage, started by torch's own launcher, `torchrun`.

`python -m tasks.torchrun` is that launcher; its processes know its pid, and so notice that it has died before they
could ask to die with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from potstill.compute import processes

_LAUNCHER = "POTSTILL_LAUNCHER"


def launcher() -> int | None:
    """The pid of the launcher that started this process; None where it was another one, or none."""
    pid = os.environ.get(_LAUNCHER)
    return None if pid is None or not inside() else int(pid)


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
    threads = {"OMP_NUM_THREADS": str(max(processes.usable_cores() // count, 1))}
    command = [sys.executable, "-m", "tasks.torchrun", "--standalone", f"--nproc-per-node={count}"]
    with log.open("wb") as errors:
        return processes.run([*command, "-m", module], environment=threads | dict(os.environ), stderr=errors)


if __name__ == "__main__":
    from torch.distributed.run import main

    os.environ[_LAUNCHER] = str(os.getpid())
    main(sys.argv[1:])
