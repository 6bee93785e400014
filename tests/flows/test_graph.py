from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.graph import free_dead_locks
from tests.flows.conftest import Toy


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
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == {"write": {}, "read": {}}


def test_what_a_living_process_holds_stays_held(offline_toy: Toy) -> None:
    parent = psutil.Process(os.getpid()).ppid()
    table = hold(offline_toy.folder, parent, "data/prepared")
    before = json.loads(table.read_text())
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == before
    busy = offline_toy.run("status")
    assert busy.code == 4
    assert "DVC is at work in this workspace" in busy.err
    assert f"(PID {parent})" in busy.err
