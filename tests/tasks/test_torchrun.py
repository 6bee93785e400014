"""A stage that several processes share, as DVC and the flow run it: its parent starts `torchrun`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from potstill.artifacts import read_json, verify
from potstill.compute.processes import free_port
from potstill.config.compute_params import Compute
from potstill.errors import LostProcessError, ToolError
from potstill.paths import FAILURE
from potstill.registry import tracking
from tasks import torchrun
from tasks.stage import INSIDE_RUN
from tests.conftest import REPOSITORY
from tests.flows.conftest import Ended, ended, until
from tests.nodes import Node, need_namespaces, two_nodes
from tests.tasks.data_workspace import STAGES, make_workspace, run_stages

pytestmark = pytest.mark.slow

TEACHER = (sys.executable, "-m", "tasks.teacher")
PLAN = {"epochs": 1, "dropout": 0.0, "batch_tokens": 128, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace in which the teacher is next."""
    folder = tmp_path_factory.mktemp("shared") / "w"
    make_workspace(folder, tiny_rows, tiny_base, project={"precision": "fp32"}, teacher=PLAN)
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*STAGES, monkeypatch=patch, folder=folder)
    return folder


@pytest.fixture
def workspace(tokens: Path, tmp_path: Path) -> Path:
    """A copy of it for a test, where two processes share a stage."""
    folder = tmp_path / "w"
    shutil.copytree(tokens, folder)
    change(folder, "compute", processes=2)
    return folder


def change(folder: Path, section: str, **values: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def start(folder: Path, command: Sequence[str] = TEACHER) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "POTSTILL"))}
    variables = {
        **environment, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
        tracking.RECORDS: str(folder / "records"), INSIDE_RUN: "1",
    }  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(folder: Path) -> Ended:
    return ended(start(folder), 280)


def test_the_outs_are_those_of_one_process(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = run(workspace)
    assert (end.code, end.err) == (0, ""), end
    assert end.out.count("teacher: dev accuracy") == 1
    assert verify(workspace / "data/teacher")
    assert len(list((workspace / "records").iterdir())) == 1
    # Neither the second's outs nor checkpoints are left.
    assert not list((workspace / ".work/processes").iterdir())
    assert not (workspace / ".work/checkpoints").exists() or not list((workspace / ".work/checkpoints").iterdir())
    expect_weights_of_one_process(workspace, monkeypatch)


def expect_weights_of_one_process(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = load_file(workspace / "data/teacher/model.safetensors")
    run_stages("teacher", monkeypatch=monkeypatch, folder=workspace)
    alone = load_file(workspace / "data/teacher/model.safetensors")
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        # A key's bias moves no softmax: its gradient is rounding, which AdamW makes a step of.
        if not name.endswith("key.bias"):
            assert shared[name].numpy() == pytest.approx(value.numpy(), abs=1e-4), name


def test_a_failure_is_one_sentence_with_its_own_code(workspace: Path) -> None:
    weights = workspace / "data/base/model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    end = run(workspace)
    assert end.code == 10
    assert end.err.count("\n") == 1
    assert end.err.startswith("teacher: data/base/model.safetensors is altered")
    assert read_json(workspace / FAILURE)["exit_code"] == 10
    assert not (workspace / "data/teacher").exists()


def test_killed_all_its_processes_die_with_it(workspace: Path) -> None:
    change(workspace, "teacher", epochs=5000, checkpoint_seconds=0.1)
    process = start(workspace)
    wait_for_checkpoint(workspace, 600)
    kill(process, family=3)  # torchrun and its two
    assert not (workspace / "data/teacher").exists()


def wait_for_checkpoint(workspace: Path, seconds: float) -> None:
    checkpoints = workspace / ".work/checkpoints"
    assert until(lambda: list(checkpoints.glob("*/step-*/manifest.json")), seconds)


def kill(process: subprocess.Popen[str], *, family: int) -> None:
    """Kill a process that has started at least that many others, with which these end."""
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= family
    process.kill()
    process.communicate()
    assert all_end(started)


def all_end(family: Sequence[psutil.Process]) -> bool:
    return until(lambda: not any(alive(process) for process in family), 30)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_its_processes_do_not_outlive_a_launcher_that_died_before_they_could_ask(workspace: Path) -> None:
    variables = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "POTSTILL_LAUNCHER": "1234567"}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.teacher"], cwd=workspace, timeout=280,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL


def test_interrupted_it_says_so_once(workspace: Path) -> None:
    change(workspace, "teacher", epochs=5000, checkpoint_seconds=0.1)
    process = start(workspace)
    wait_for_checkpoint(workspace, 600)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    end = ended(process)
    assert (end.code, end.err) == (130, "teacher: interrupted; run again to go on where it stopped\n")
    assert all_end(family)


def test_a_node_that_never_joins_is_named_and_nothing_stays_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    compute = Compute(nodes=2, rendezvous=f"127.0.0.1:{free_port()}", wait_minutes=0.01)
    with pytest.raises(LostProcessError, match=r"not all of its 2 nodes were at 127\.0\.0\.1:\d+ within 0\.01 minutes"):
        torchrun.run("teacher", compute)
    assert torchrun.announced() is None


def test_an_address_of_another_machine_is_no_rendezvous_of_this_one() -> None:
    with pytest.raises(ToolError, match=r"cannot listen on 192\.0\.2\.1 port 29400 .*; set compute\.rendezvous"):
        torchrun.run("teacher", Compute(nodes=2, rendezvous="192.0.2.1:29400"))


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two machines that see the same folders."""
    need_namespaces()
    with two_nodes() as both:
        yield both


def test_a_node_that_was_killed_and_is_back_goes_on_and_the_outs_are_those_of_one_process(
    tokens: Path, tmp_path: Path, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = shutil.copytree(tokens, tmp_path / "w")
    change(workspace, "compute", nodes=2, rendezvous=f"{nodes[0].address}:29400")
    change(workspace, "teacher", epochs=4, checkpoint_seconds=0.1)
    join = nodes[1].command(sys.executable, "-m", "flows.cli", "join")
    stage = start(workspace, nodes[0].command(*TEACHER))
    lost = start(workspace, join)
    wait_for_checkpoint(workspace, 280)
    kill(lost, family=2)  # torchrun and its process
    back = start(workspace, join)
    end = ended(stage, 280)
    assert (end.code, end.err) == (0, ""), end
    assert "teacher: resumes at step" in end.out
    assert until(lambda: not (workspace / ".work/shared-stage.json").exists(), 30)
    back.terminate()
    joined = ended(back)
    assert joined.code == 130
    assert "join: takes part in teacher" in joined.out
    expect_weights_of_one_process(workspace, monkeypatch)
