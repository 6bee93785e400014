from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.engine.stage_process import Child, Limit, reproduce
from potstill.errors import BusyError, PotstillError, TimeLimitError
from tests.flows.conftest import until
from tests.potstill.compute.test_processes import FAMILY, alive, pids

# A stage whose command has not asked to die with its parent, as one that still loads its modules.
GRAPH = "stages:\n  load:\n    cmd: echo $$ $PPID > pids.tmp && mv pids.tmp pids && exec sleep 60\n    outs: [out]\n"
MINUTES = Limit("step gate", "schedule.step_minutes", 5)


@pytest.mark.slow
def test_a_command_ends_with_the_child_that_dvc_runs_in(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, env=variables, check=True)

    def kill_child() -> None:
        until((tmp_path / "pids").exists)
        os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_child)
    killer.start()
    with pytest.raises(PotstillError, match="step gate ended without an answer"):
        reproduce("load", tmp_path, variables, MINUTES)
    killer.join()
    assert until(lambda: not alive(int((tmp_path / "pids").read_text().split()[0])), 30)


def hang(folder: Path) -> None:
    """A step that neither ends nor takes SIGTERM, with children of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.run([sys.executable, "-c", FAMILY, str(folder / "pids")], check=True)


def fail(error: Exception) -> None:
    raise error


@pytest.mark.slow
def test_a_step_answers_or_fails_or_is_ended_at_its_limit(tmp_path: Path) -> None:
    child = Child(tmp_path)
    assert child.call(os.getcwd, limit=MINUTES) == str(tmp_path)
    assert child.call(os.getcwd, limit=Limit("stage x", "schedule.stage_minutes", 1e9)) == str(tmp_path)
    with pytest.raises(BusyError, match="another"):
        child.call(fail, BusyError("another process"), limit=MINUTES)
    with pytest.raises(PotstillError, match=r"unexpected ValueError: 7 \(traceback in .work/logs/potstill.txt"):
        child.call(fail, ValueError("7"), limit=MINUTES)
    assert "in fail" in (tmp_path / ".work/logs/potstill.txt").read_text(encoding="utf-8")

    limit = Limit("step gate", "schedule.step_minutes", 0.1)
    begin = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"step gate ran past its limit of 0.1 minutes.*schedule.step_minutes"):
        child.call(hang, tmp_path, limit=limit)
    assert time.monotonic() - begin < limit.seconds + 10
    assert not child.is_alive()
    assert until(lambda: not any(map(alive, pids(tmp_path / "pids"))), 10)
    child.close()
