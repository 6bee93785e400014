"""`python -m tasks STAGE`: runs `tasks.STAGE`, in the process that a run holds ready for it if there is one."""

from __future__ import annotations

import runpy
import sys

from potstill.compute.processes import die_with_parent
from potstill.compute.standby import hand_over


def main(name: str) -> None:
    """Run a stage and end with its exit status."""
    module = f"tasks.{name}"
    status = hand_over(module)
    if status is not None:
        sys.exit(status)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    die_with_parent()
    if len(sys.argv) != len(("tasks", "STAGE")):
        sys.exit("usage: python -m tasks STAGE, one of those in dvc.yaml")
    main(sys.argv[1])
