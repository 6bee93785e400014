from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.graph import Graph, free_dead_locks
from potstill.errors import BusyError
from tests.flows.conftest import Toy


# A library of DVC's, in this process and not in a child of its own.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


def hold(toy: Path, pid: int, path: str) -> Path:
    """What DVC writes while a process makes an out."""
    table = toy / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(parents=True, exist_ok=True)
    holder = {"pid": pid, "cmd": "dvc repro"}
    write = {str(toy / path): holder}
    read = {str(toy / "params.yaml"): [holder]}
    table.write_text(json.dumps({"write": write, "read": read}), encoding="utf-8")
    return table


def test_what_a_killed_process_held_is_free_though_nobody_has_asked_for_its_end(
    offline_toy: Toy, request: pytest.FixtureRequest
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    request.addfinalizer(dead.wait)
    while psutil.Process(dead.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    table = hold(offline_toy.folder, dead.pid, "data/prepared")
    with pytest.raises(BusyError, match="DVC is at work in this workspace"):
        Graph(offline_toy.folder).stale()
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == {"write": {}, "read": {}}
    assert Graph(offline_toy.folder).stale() == ["prepare", "export", "evaluate"]


def test_what_a_living_process_holds_stays_held(offline_toy: Toy) -> None:
    parent = psutil.Process(os.getpid()).ppid()
    table = hold(offline_toy.folder, parent, "data/prepared")
    before = json.loads(table.read_text())
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == before
    with pytest.raises(BusyError, match=str(parent)):
        Graph(offline_toy.folder).stale()
