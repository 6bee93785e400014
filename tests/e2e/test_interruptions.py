"""A run that is cut short, and what the next one makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from potstill.artifacts import MANIFEST
from tests.e2e.conftest import Finished
from tests.e2e.workspaces import TINY, command, environment, make_workspace, processes_in, status

WEIGHTS = ("teacher", "signals", "distilled", "student", "control", "initialised", "export", "teacher_int8", "serving")


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


def test_kill_9_interrupt_and_a_second_run_at_once(
    finished: Finished, tmp_path: Path, tiny_base: Path, tiny_rows: Path
) -> None:
    folder = make_workspace(tmp_path / "reviews", tiny_rows, tiny_base, tmp_path, TINY)

    killed = begin(folder, tmp_path)
    wait_for_line(killed, "teacher: cpu")
    busy = command("potstill", "run", cwd=folder, home=tmp_path, expect=4)
    assert "a run is already going on" in busy
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert nothing_left(folder), processes_in(folder)

    interrupted = begin(folder, tmp_path)
    wait_for_line(interrupted, "distill: cpu")
    os.kill(interrupted.pid, signal.SIGINT)
    said = interrupted.communicate(timeout=60)[0]
    assert interrupted.returncode == 130, said
    assert "Traceback" not in said
    assert nothing_left(folder), processes_in(folder)
    assert not (folder / "data" / "distilled").exists()

    command("potstill", "run", cwd=folder, home=tmp_path)
    for out in WEIGHTS:
        ours, theirs = (place / "data" / out / MANIFEST for place in (folder, finished.folder))
        assert ours.read_bytes() == theirs.read_bytes(), f"{out} differs from an undisturbed run's"
    assert status(folder, tmp_path)["versions"]["champion"]["version"] == "1"
