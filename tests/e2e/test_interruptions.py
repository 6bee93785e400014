"""A run that is cut short, and what the next one makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from potstill.artifacts import MANIFEST
from potstill.config.yaml_file import as_yaml, load_yaml
from potstill.paths import DVC_LOCK
from tests.e2e.conftest import Finished
from tests.e2e.workspaces import champion, command, environment, processes_in


def undo(folder: Path, stages: list[str], outs: list[str]) -> None:
    """Have the next run compute stages again: DVC knows neither their outs nor that it has run them."""
    lock = load_yaml((folder / DVC_LOCK).read_text(encoding="utf-8"))
    for stage in stages:
        del lock["stages"][stage]
    (folder / DVC_LOCK).write_text(as_yaml(lock), encoding="utf-8")
    shutil.rmtree(folder / ".dvc" / "cache" / "runs")
    for out in outs:
        shutil.rmtree(folder / "data" / out)


def begin(folder: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["potstill", "run"],
        cwd=folder,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line.startswith(start):
            return
        said.append(line)
    pytest.fail(f"the run ended before it said {start!r}; it said {''.join(said)}")


def nothing_left(folder: Path, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while processes_in(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_kill_9_interrupt_and_a_second_run_at_once(finished: Finished, tmp_path: Path) -> None:
    """The stage that is cut short starts from a finished run, so that DVC itself compares what it ends with."""
    home = Path(shutil.copytree(finished.home, tmp_path / "home", symlinks=True))
    folder = home / finished.folder.name
    undo(folder, ["distill"], ["distilled"])

    killed = begin(folder, home)
    wait_for_line(killed, "distill: cpu")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert nothing_left(folder), processes_in(folder)

    interrupted = begin(folder, home)
    wait_for_line(interrupted, "distill: cpu")
    os.kill(interrupted.pid, signal.SIGINT)
    said = interrupted.communicate(timeout=60)[0]
    assert interrupted.returncode == 130, said
    assert "Traceback" not in said
    assert nothing_left(folder), processes_in(folder)
    assert not (folder / "data" / "distilled").exists()

    last = begin(folder, home)
    wait_for_line(last, "ingest: current")
    busy = command("potstill", "run", cwd=folder, home=home, expect=4)
    assert "a run is already going on" in busy
    printed = last.communicate(timeout=600)[0]
    assert last.returncode == 0, printed
    assert "distill: dev accuracy" in printed
    # What depends on it is current, since its out is that of the undisturbed run to the byte.
    assert "finetune: current" in printed
    assert "evaluate: current" in printed
    ours, theirs = (place / "data" / "distilled" / MANIFEST for place in (folder, finished.folder))
    assert ours.read_bytes() == theirs.read_bytes()
    assert champion(folder) == 1
