"""Temporary folders that carry the id of their process, so that those of killed ones can be removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from potstill import paths
from potstill.registry.process_identity import has_process


def scratch_folder(workspace: Path) -> AbstractContextManager[Path]:
    """Yield an empty folder below `.work/tmp`; folders that killed processes left are removed first."""
    return process_folder(workspace / paths.SCRATCH)


def clean_scratch(workspace: Path) -> None:
    """Remove the scratch folders of processes that have ended."""
    _clean(workspace / paths.SCRATCH, "")


@contextmanager
def process_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """Yield an empty folder in another one; those of this name that killed processes left are removed first.

    Args:
        parent: where it is created, and itself where it is missing.
        name: the start of its name.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _clean(parent, name)
    prefix = f"{name}{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _clean(parent: Path, name: str) -> None:
    for folder in parent.glob(f"{name}*-*"):
        pid = folder.name.removeprefix(name).partition("-")[0]
        if pid.isdecimal() and not has_process(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
