from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from flows.engine.dvc_graph import Graph
from flows.engine.mlflow_recorder import Recorder
from flows.engine.pipeline_run import Run
from potstill.compute.processes import free_port
from potstill.config.params_file import load_params
from potstill.errors import StoreError
from potstill.paths import RECORDS
from potstill.registry import tracking
from tests.flows.conftest import Toy
from tests.registries import new_store


def leave(workspace: Path, stage: str) -> None:
    """Write the record that a stage leaves at its end."""
    record = tracking.StageRecord(
        project="toy", stage=stage, start=1.0, end=2.0, params={"a": 1}, metrics={"seconds": 1.0},
        history=[(0, "loss", 1.0), (1, "loss", 0.5)], datasets={"train": {"digest": "a"}}, outs="0" * 64, tags={},
    )  # fmt: skip
    folder = workspace / RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps(asdict(record)), encoding="utf-8")


@pytest.mark.slow
def test_a_stage_that_ends_before_the_start_is_caught_up_belongs_to_this_run(tmp_path: Path) -> None:
    tracking.client(tmp_path).search_experiments()
    leave(tmp_path, "killed")
    (tmp_path / RECORDS / ".unfinished.json.tmp").touch()
    recorder = Recorder(tmp_path, "toy", {})
    busy = threading.Event()
    recorder._thread.submit(busy.wait)  # as long as MLflow's import takes
    recorder.catch_up()
    leave(tmp_path, "prepare")
    recorder.collect()
    busy.set()
    recorder.wait()
    assert recorder.parent_id is not None
    recorder.close("FINISHED", {}, {}, {})
    assert list((tmp_path / RECORDS).iterdir()) == []
    store = tracking.client(tmp_path)
    runs = store.search_runs([experiment.experiment_id for experiment in store.search_experiments()])
    parents = {run.info.run_name: run.data.tags.get("mlflow.parentRunId") for run in runs}
    assert parents["prepare"] == recorder.parent_id
    assert parents["killed"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_data_moves_while_mlflow_is_away(offline_toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a worker would lose the stage that it has just run."""
    workspace = offline_toy.folder
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    params = load_params(workspace / "params.yaml")
    run = Run(workspace, params, Graph(workspace, params), Recorder(workspace, "toy", {}))
    leave(workspace, "prepare")
    run.recorder.collect()
    assert run.transfer("push", os.getcwd) == str(workspace)
    with pytest.raises(StoreError, match="connection refused"):
        run.step("gate", os.getcwd)
    run.recorder.parent_id = "an earlier stage's"
    leave(workspace, "export")
    run.recorder.collect()
    run.close("FAILED")  # without an error of its own, which would hide what the run has failed with


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_the_parts_of_a_step_add_up_under_any_name(offline_toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = offline_toy.folder
    monkeypatch.chdir(workspace)
    params = load_params(workspace / "params.yaml")
    run = Run(workspace, params, Graph(workspace, params), Recorder(workspace, "toy", {}))
    walls = []
    for _ in range(2):
        with run.timed("a100 (40 GB)"):
            pass
        walls.append(run.times["a100 (40 GB)"].wall)
    assert walls[1] > walls[0] > 0
    parent = run.recorder.parent()
    run.close("FINISHED")
    logged = tracking.client(workspace).get_run(parent)
    assert (logged.info.status, logged.data.metrics) == ("FINISHED", {"seconds.a100 _40 GB_": walls[1]})


@pytest.mark.slow
def test_a_record_whose_writer_was_killed_becomes_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tracking.client(new_store(tmp_path))
    leave(tmp_path, "distill")
    path = tmp_path / RECORDS / "distill.json"
    content = path.read_bytes()

    def killed(*_: object, **__: object) -> None:
        raise SystemExit("killed before anything was logged")

    with monkeypatch.context() as patch:
        patch.setattr(store, "log_batch", killed)
        with pytest.raises(SystemExit):
            tracking.write_stage_run(tmp_path, tracking.read_record(path), None, key=path.stem)
    for _ in range(2):
        path.write_bytes(content)  # the second time, all was logged and the record not removed
        recorder = Recorder(tmp_path, "toy", {})
        recorder.catch_up()
        recorder.wait()
        assert not path.exists()
    (run,) = store.search_runs([tracking.experiment_id(tmp_path, "toy")])
    assert (run.info.run_name, run.info.status, run.info.end_time) == ("distill", "FINISHED", 2000)
    assert [item.value for item in store.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5]
    assert (run.data.params, len(run.inputs.dataset_inputs)) == ({"a": "1"}, 1)
