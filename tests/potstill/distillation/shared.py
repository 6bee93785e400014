"""An extraction that processes share: `torchrun -m tests.potstill.distillation.shared <teacher> <folder>`."""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.artifacts import write_json
from potstill.compute.distributed import current_world
from tests.potstill.distillation.test_signal_store import MANY, Counted, store


def main() -> None:
    """Each process leaves the rows it ran the teacher on; the first the store, the others their own copy of it."""
    teacher, folder = map(Path, sys.argv[1:])
    rank = current_world().rank
    source = Counted(teacher)
    work = folder / "work"
    store(folder / f"signals-{rank}", teacher, MANY, source, work=work, dtype="float16", hidden=[2])
    write_json(folder / f"seen-{rank}.json", source.seen)


if __name__ == "__main__":
    main()
