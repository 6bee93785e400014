from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from potstill.registry import tracking
from potstill.registry.process_identity import this_process
from potstill.registry.promotion import Registry
from tests.checkout import git
from tests.registries import PROJECT, add_version, new_store


def log(parent: str | None = None, **changes: object) -> None:
    facts: dict[str, object] = {
        "params": {f"a.{i}": i for i in range(120)}, "metrics": {"seconds": 3.0, "accuracy": 0.9},
        "history": [(step, "loss", 1 / (step + 1)) for step in range(1500)],
        "datasets": {"train": {"digest": "a" * 64, "source": "data/prepared", "rows": 7}},
        "outs": {"distilled": "abc"},
    }  # fmt: skip
    tracking.log_stage(project=PROJECT, stage="distill", parent=parent, **{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_stage_becomes_one_finished_run_under_its_parent(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    parent = tracking.start_parent(workspace, PROJECT, {"project.seed": 17}, [])
    log(parent)
    found = tracking.find_stage_run(workspace, PROJECT, "distill", tracking.outs_sum({"distilled": "abc"}))
    assert found is not None
    store = tracking.client(workspace)
    run = store.get_run(found)
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 3000
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.metrics["accuracy"] == 0.9
    assert len(run.data.params) == 120
    assert len(store.get_metric_history(found, "loss")) == 1500
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("train", "a" * 36)
    assert {tag.key: tag.value for tag in given.tags}["potstill.rows"] == "7"
    assert tracking.find_stage_run(workspace, PROJECT, "distill", tracking.outs_sum({"distilled": "other"})) is None


@pytest.mark.slow
def test_evaluations_on_a_test_split_are_counted_once_an_outcome(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    test = "b" * 64
    assert tracking.count_evaluations(workspace, PROJECT, test) == 0
    for stage, split, outcome in [
        ("evaluate", test, "one"), ("evaluate", test, "one"), ("evaluate", test, "two"),
        ("evaluate", "c" * 64, "three"), ("distill", test, "four"),
    ]:  # fmt: skip
        datasets = {"test": {"digest": tracking.digest(split), "source": "data/prepared/test.parquet", "rows": 7}}
        tracking.log_stage(
            project=PROJECT, stage=stage, params={}, metrics={}, datasets=datasets, outs={"evaluation": outcome}
        )
    assert tracking.count_evaluations(workspace, PROJECT, test) == 2


def test_inside_a_run_a_stage_leaves_a_file_and_imports_no_mlflow(workspace: Path) -> None:
    code = (
        "import sys; from potstill.registry.tracking import log_stage;"
        "log_stage(project='p', stage='s', parent=None, params={}, metrics={'x': float('nan')},"
        " history=[(0, 'l', 1.0)], datasets={}, outs={}); assert 'mlflow' not in sys.modules"
    )
    records = workspace / "records"
    subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, check=True,
        env={tracking.RECORDS: str(records), "PYTHONPATH": str(Path(tracking.__file__).parents[2])},
    )  # fmt: skip
    (path,) = records.iterdir()
    record = tracking.read_record(path)
    run = tracking.client(workspace).get_run(tracking.write_stage_run(workspace, record, None))
    assert math.isnan(run.data.metrics["x"])
    assert (run.info.run_name, run.info.status) == ("s", "FINISHED")


def test_artifacts_go_to_the_workspace_and_no_mlruns_folder_appears(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("a: 1\n", encoding="utf-8")
    run = tracking.start_parent(workspace, PROJECT, {}, [workspace / "params.yaml", workspace / "missing"])
    assert (workspace / "mlartifacts" / PROJECT / run / "artifacts" / "params.yaml").exists()
    assert not (workspace / "mlruns").exists()


@pytest.mark.slow
def test_runs_that_a_kill_left_running_are_ended_but_only_those_of_this_workspace(workspace: Path) -> None:
    mine = tracking.start_parent(workspace, PROJECT, {}, [])
    store = tracking.client(workspace)
    other = store.create_run(tracking.experiment_id(workspace, PROJECT)).info.run_id
    assert tracking.end_stale_runs(workspace, PROJECT) == [mine]
    assert store.get_run(mine).info.status == "KILLED"
    assert store.get_run(other).info.status == "RUNNING"
    assert tracking.end_stale_runs(workspace, PROJECT) == []


@pytest.mark.parametrize("change", [{"host": "other", "machine": "other"}, {"namespace": "pid:[1]"}])
def test_a_live_run_of_another_machine_or_container_with_an_equal_path_goes_on(
    workspace: Path, change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "this_process", lambda: dataclasses.replace(this_process(), pid=1, **change))
        theirs = tracking.start_parent(workspace, PROJECT, {}, [])
    assert tracking.end_stale_runs(workspace, PROJECT) == []
    assert tracking.client(workspace).get_run(theirs).info.status == "RUNNING"


def test_a_killed_run_that_had_registered_a_version_is_finished(workspace: Path, tmp_path: Path) -> None:
    run = tracking.start_parent(workspace, PROJECT, {}, [])
    store = tracking.client(workspace)
    store.create_registered_model(PROJECT)
    store.create_model_version(PROJECT, str(tmp_path), run_id=run)
    assert tracking.end_stale_runs(workspace, PROJECT) == [run]
    assert store.get_run(run).info.status == "FINISHED"


@pytest.mark.slow
def test_any_path_can_be_a_workspace(tmp_path: Path) -> None:
    workspace = new_store(tmp_path / 'it\'s "my" 100%_folder; `x` é')
    run = tracking.start_parent(workspace, PROJECT, {}, [])
    assert tracking.end_stale_runs(workspace, PROJECT) == [run]
    registry = Registry(workspace, PROJECT)
    registry.promote(add_version(registry, "one").version, expected=None)
    assert registry.fetch("champion").is_dir()


def test_a_deleted_experiment_is_used_again(workspace: Path) -> None:
    first = tracking.experiment_id(workspace, PROJECT)
    tracking.client(workspace).delete_experiment(first)
    assert tracking.experiment_id(workspace, PROJECT) == first


def test_the_users_own_server_is_used(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.tracking_uri(workspace) == f"sqlite:///{workspace}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.tracking_uri(workspace) == "http://127.0.0.1:5000"


def test_commit_and_dirt_are_tags_and_a_folder_without_git_has_none(tmp_path: Path) -> None:
    assert tracking.git_tags(tmp_path) == {}
    (tmp_path / "a").write_text("1", encoding="utf-8")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "a"]):
        git(tmp_path, *command)
    clean = tracking.git_tags(tmp_path)
    assert len(clean["mlflow.source.git.commit"]) == 40
    assert clean["potstill.git_dirty"] == "false"
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert tracking.git_tags(tmp_path)["potstill.git_dirty"] == "true"


@pytest.mark.slow
def test_runs_that_log_the_same_data_at_once_all_have_it(workspace: Path) -> None:
    store = tracking.client(workspace)
    experiment = tracking.experiment_id(workspace, PROJECT)
    for digest in "abcde":
        runs = [store.create_run(experiment).info.run_id for _ in range(4)]
        barrier = threading.Barrier(len(runs))

        def log_rows(run_id: str, digest: str = digest, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            datasets = {name: {"digest": digest} for name in ("train", "dev")}
            tracking.log_datasets(workspace, run_id, datasets, context="")

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(log_rows, runs))
        assert [len(store.get_run(run_id).inputs.dataset_inputs) for run_id in runs] == [2] * len(runs)
