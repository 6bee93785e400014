"""Shared by tests that kill: how often they do so, and processes that end as if killed while they write a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

_KILLED = 9


def kill_count(usual: int) -> int:
    """Return how often a test kills: POTSTILL_KILLS of the environment for a trial, else what is usual for it."""
    return int(os.environ.get("POTSTILL_KILLS", usual))


def killed_in_write(module: str, call: str, folder: Path) -> None:
    """Run `call`, with the names of a module, in a process that ends when its first file is to get its name."""
    script = f"import os\nfrom {module} import *\nos.replace = lambda *_: os._exit({_KILLED})\n{call}\n"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=False)
    assert ended.returncode == _KILLED
