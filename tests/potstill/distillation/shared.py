"""An extraction that several processes share; the second shard is finished before they start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from potstill.artifacts import write_json
from potstill.compute.distributed import current_world
from tests.potstill.distillation.test_signal_store import MANY, Counted, store, write_teacher

PARAMS: dict[str, Any] = {"dtype": "float16", "hidden": [2]}
ALONE = "signals-alone"


def prepare(base: Path, folder: Path) -> None:
    """Write the teacher, the store as a single process makes it, and the finished shard."""
    teacher = write_teacher(folder / "teacher", base)
    store(folder / ALONE, teacher, MANY, **PARAMS)
    shutil.copytree(folder / f"{ALONE}-work" / "shard-000001", folder / "signals-work" / "shard-000001")


def main(folder: Path) -> None:
    """Write the rows that each process ran the teacher on; the first process writes the store, others a copy of it."""
    rank = current_world().rank
    source = Counted(folder / "teacher")
    store(folder / f"signals-{rank}", folder / "teacher", MANY, source, work=folder / "signals-work", **PARAMS)
    write_json(folder / f"seen-{rank}.json", source.seen)
