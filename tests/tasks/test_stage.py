"""The stage contract, on tiny real stages run as DVC runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.artifacts import read_json, verify
from potstill.compute.processes import hold
from potstill.paths import FAILURE, RUN_LOCK
from potstill.registry import tracking
from tasks.stage import INSIDE_RUN
from tests.flows.conftest import Ended, ended, until
from tests.registries import PROJECT, new_store

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
STAGE = """
import time
from pathlib import Path
from potstill.artifacts import whole_folder, write_manifest
from potstill.errors import LabelError
from potstill.config.distill_params import Finetune
from tasks.stage import Result, Stage, main

def run(stage: Stage) -> Result:
    mode = Path("mode").read_text()
    with stage.work("training"), whole_folder(stage.outs["made"]) as folder:
        (folder / "x.txt").write_text(stage.deps["given"].read_text() * stage.params(Finetune).epochs)
        if mode == "fail": raise LabelError("row 7 is wrong; correct it")
        if mode == "bug": raise ZeroDivisionError("secret detail")
        if mode == "edit": stage.deps["given"].write_text("other, edited in mid-run")
        if mode == "code": Path(__file__).write_text("")
        params = Path("params.yaml")
        if mode == "params":
            params.write_text(params.read_text().replace("finetune:\\n  epochs: 0", "finetune:\\n  epochs: 2"))
        if mode == "broken params": params.write_text("[")
        if mode == "full": raise OSError(28, "No space left on device")
        if mode == "hang": Path("hangs").touch(); time.sleep(60)
        write_manifest(folder)
    return Result("all well", metrics={"rows": 1.0})

if __name__ == "__main__":
    main(run)
"""
GRAPH = """
stages:
  toy:
    cmd: exec python toy.py
    params: [project, finetune]
    deps: [data/given.txt, toy.py]
    outs: [data/made]
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/given.txt").write_text("given", encoding="utf-8")
    (tmp_path / "toy.py").write_text(STAGE, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    return new_store(tmp_path)


def start(workspace: Path, mode: str, **more: str) -> subprocess.Popen[str]:
    (workspace / "mode").write_text(mode, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "POTSTILL"))}
    variables = {**environment, "PYTHONPATH": str(REPOSITORY), **more}
    return subprocess.Popen(
        [sys.executable, "toy.py"], cwd=workspace, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(workspace: Path, mode: str = "", **more: str) -> Ended:
    return ended(start(workspace, mode, **more))


def recorded(workspace: Path) -> dict[str, str]:
    """Environment in which a stage leaves a file instead of importing MLflow."""
    return {tracking.RECORDS: str(workspace / "records"), INSIDE_RUN: "1"}


def assert_failed(workspace: Path, end: Ended, code: int, words: str) -> None:
    assert end.code == code, end
    assert end.err.count("\n") == 1
    assert words in end.err
    assert "Traceback" not in end.out + end.err
    failure = read_json(workspace / FAILURE)
    assert (failure["stage"], failure["exit_code"]) == ("toy", code)
    assert f"toy: {failure['message']}\n" == end.err
    assert not (workspace / "data/made").exists()
    assert [path.name for path in (workspace / "data").iterdir()] == ["given.txt"]


def test_alone_a_stage_logs_its_own_mlflow_run(workspace: Path) -> None:
    end = run(workspace)
    assert (end.code, end.out, end.err) == (0, "toy: all well\n", "")
    verify(workspace / "data/made")
    store = tracking.client(workspace)
    (found,) = store.search_runs([tracking.experiment_id(workspace, PROJECT)])
    assert (found.info.run_name, found.info.status) == ("toy", "FINISHED")
    assert found.data.params["finetune.epochs"] == "0"
    assert found.data.metrics["rows"] == 1.0
    assert "training" in read_json(workspace / ".work/timings/toy.json")["work"]


def test_same_inputs_same_bytes(workspace: Path) -> None:
    calls = []
    for _ in range(2):
        assert run(workspace, **recorded(workspace)).code == 0
        calls.append((workspace / "data/made/manifest.json").read_bytes())
    assert calls[0] == calls[1]
    assert not (workspace / ".work/checkpoints").exists()


def test_what_stopped_runs_left_is_removed_when_the_stage_has_ended(workspace: Path) -> None:
    left = [workspace / ".work/checkpoints" / name for name in ("toy-0123", "other-0123")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "weights").write_text("large")
    assert run(workspace, "fail", **recorded(workspace)).code == 22
    assert [folder.exists() for folder in left] == [True, True]
    assert run(workspace, **recorded(workspace)).code == 0
    assert [folder.exists() for folder in left] == [False, True]


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("fail", 22, "row 7 is wrong; correct it"),
        ("bug", 1, "unexpected ZeroDivisionError: secret detail (traceback in .work/logs/toy.txt"),
        ("full", 5, "no space left"),
    ],
)
def test_an_error_is_one_sentence_and_leaves_no_out(workspace: Path, mode: str, code: int, words: str) -> None:
    assert_failed(workspace, run(workspace, mode, **recorded(workspace)), code, words)


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("edit", "data/given.txt"),
        ("code", "toy.py"),
        ("params", "finetune.epochs in params.yaml"),
        ("broken params", "params.yaml"),
    ],
)
def test_what_is_edited_in_mid_run_makes_no_out_and_is_named(workspace: Path, mode: str, named: str) -> None:
    """DVC records a dep's hash after the command, so the edit would be locked to outs it did not make."""
    end = run(workspace, mode, **recorded(workspace))
    assert_failed(workspace, end, 10, f"toy: {named} changed while toy ran, so its outs were removed; run again")


def test_a_missing_dep_and_a_wrong_param_end_it_before_any_work(workspace: Path) -> None:
    (workspace / "data/given.txt").rename(workspace / "given")
    end = run(workspace, **recorded(workspace))
    assert end.code == 10
    assert "data/given.txt does not exist" in end.err
    (workspace / "given").rename(workspace / "data/given.txt")
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (workspace / "params.yaml").write_text(text.replace("alpha:", "alhpa:"), encoding="utf-8")
    assert_failed(workspace, run(workspace, **recorded(workspace)), 3, "did you mean 'alpha'?")


def test_a_stage_refuses_to_start_during_a_run_but_runs_inside_one(workspace: Path) -> None:
    with hold(workspace / RUN_LOCK, what="a run"):
        busy = run(workspace)
        assert busy.code == 4
        assert str(os.getpid()) in busy.err
        assert run(workspace, **recorded(workspace)).code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_stage_leaves_nothing(workspace: Path, number: signal.Signals) -> None:
    process = start(workspace, "hang", **recorded(workspace))
    assert until((workspace / "hangs").exists)
    process.send_signal(number)
    assert_failed(workspace, ended(process), 130, "interrupted")


def test_after_kill_9_the_next_run_makes_the_out(workspace: Path) -> None:
    process = start(workspace, "hang", **recorded(workspace))
    assert until((workspace / "hangs").exists)
    process.kill()
    ended(process)
    assert not (workspace / "data/made").exists()
    end = run(workspace, **recorded(workspace))
    assert end.code == 0, end
    verify(workspace / "data/made")
    (record,) = (workspace / "records").iterdir()
    assert json.loads(record.read_text(encoding="utf-8"))["stage"] == "toy"
