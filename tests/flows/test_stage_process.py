from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.engine.stage_process import reproduce
from potstill.errors import PotstillError
from tests.flows.conftest import until
from tests.potstill.compute.test_processes import alive

# A stage whose command has not asked to die with its parent, as one that still loads its modules.
GRAPH = "stages:\n  load:\n    cmd: echo $$ $PPID > pids.tmp && mv pids.tmp pids && exec sleep 60\n    outs: [out]\n"


@pytest.mark.slow
def test_a_command_ends_with_the_child_that_dvc_runs_in(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, env=variables, check=True)

    def kill_child() -> None:
        until((tmp_path / "pids").exists)
        os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_child)
    killer.start()
    with pytest.raises(PotstillError, match="load ended without an answer"):
        reproduce("load", tmp_path, variables, 300)
    killer.join()
    assert until(lambda: not alive(int((tmp_path / "pids").read_text().split()[0])), 30)
