"""MLflow runs: a parent for each pipeline run that did something, and a child for each stage that ran.

The run of a stage is created, filled and ended after the stage has ended, so a killed stage leaves no run RUNNING.
`import mlflow` takes seconds in each process. Inside a pipeline run a stage therefore only writes a record to a file
(`RECORDS` names the folder), and the flow, which has loaded MLflow, creates the run from it. A stage that runs alone
logs itself.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill import environment
from potstill.artifacts import sha256_text, sha256_value, write_text
from potstill.paths import ARTIFACTS, STORE
from potstill.registry.process_identity import read_identity, this_process
from potstill.registry.store_calls import connect, suppress_answers

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Param, Run
    from mlflow.tracking import MlflowClient

# Environment variable, set by a pipeline run: the folder for the records of its stages.
RECORDS = "POTSTILL_RECORDS"

# MLflow's tags, so that its pages show parent and commit.
_PARENT = "mlflow.parentRunId"
COMMIT = "mlflow.source.git.commit"
STAGE = "potstill.stage"
OUTS = "potstill.outs"
WORKSPACE = "potstill.workspace"
# The sha256 of the workspace's path: unlike the path, it needs no escaping in a filter.
WORKSPACE_SHA = "potstill.place"
# The process that works on a run: paths repeat between machines and containers.
PROCESS = "potstill.process"

_SQLITE = "sqlite:///"
# Limits of a call of the store (mlflow.utils.validation).
_VALUE_CHARACTERS = 6000
_TAG_CHARACTERS = 5000


@dataclass(frozen=True)
class StageRecord:
    """The record of an executed stage, from which its MLflow run is created."""

    project: str
    stage: str
    # Seconds since the epoch.
    start: float
    end: float
    params: dict[str, Any]
    metrics: dict[str, float]
    # (step, name, value) in order.
    history: list[tuple[int, str, float]]
    # Name -> digest, source, rows and other facts of a dataset.
    datasets: dict[str, dict[str, Any]]
    outs: str
    tags: dict[str, str]


def log_stage(
    *,
    project: str,
    stage: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    parent: str | None = None,
    history: Sequence[tuple[int, str, float]] = (),
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    outs: Mapping[str, Any] | None = None,
) -> None:
    """Log a finished stage: to a file inside a pipeline run (`RECORDS`), else to MLflow.

    Args:
        project: name of the MLflow experiment.
        stage: name of the stage and of its run.
        params: the stage's params, flat.
        metrics: final numbers; `seconds` (wall time of the stage) sets the run's start.
        parent: id of the pipeline's run, or None.
        history: (step, name, value) of metrics over time.
        datasets: name in MLflow -> `digest`, `source`, `rows` of a dataset that the stage used.
        outs: out -> identity; a later run finds this one by their hash, which is a tag.
    """
    end = time.time()
    record = StageRecord(
        project=project,
        stage=stage,
        start=end - metrics.get("seconds", 0.0),
        end=end,
        params=dict(params),
        metrics=dict(metrics),
        history=list(history),
        datasets={name: dict(facts) for name, facts in (datasets or {}).items()},
        outs=outs_sum(outs or {}),
        tags=git_tags(Path.cwd()),
    )
    if folder := os.environ.get(RECORDS):
        # Not canonical JSON, because a metric may be NaN.
        write_text(Path(folder) / f"{stage}-{uuid.uuid4().hex}.json", json.dumps(asdict(record)))
    else:
        write_stage_run(Path.cwd(), record, parent)


def read_record(path: Path) -> StageRecord:
    """Read a record that `log_stage` wrote."""
    return StageRecord(**json.loads(path.read_text(encoding="utf-8")))


def outs_sum(outs: Mapping[str, Any]) -> str:
    """Compute the hash of a stage's outs from the identity of each folder (the sha256 of its manifest)."""
    return sha256_value(dict(outs))


def git_tags(workspace: Path) -> dict[str, str]:
    """Return the commit, and whether the tree differs from it, as tags; empty outside git or without a commit."""
    commit = _git(workspace, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return {}
    changes = _git(workspace, "status", "--porcelain", "--untracked-files=no")
    return {COMMIT: commit, "potstill.git_dirty": str(bool(changes)).lower()}


def uncommitted(workspace: Path, paths: Iterable[Path]) -> list[str] | None:
    """Return those files and folders of a workspace that differ from the commit; None outside git or without a commit.

    A file that git ignores differs, and so does a folder with a file that git neither tracks nor ignores.
    """
    if _git(workspace, "rev-parse", "--verify", "HEAD") is None:
        return None
    ignored = {path: "no" if (workspace / path).is_dir() else "traditional" for path in paths}
    return [
        path.as_posix()
        for path, mode in ignored.items()
        if _git(workspace, "status", "--porcelain", f"--ignored={mode}", "--", path.as_posix()) != ""
    ]


def is_tracked(folder: Path, name: str) -> bool:
    """Whether git tracks a file or folder, or anything in it."""
    return bool(_git(folder, "ls-files", "--", name))


def has_commit(workspace: Path, commit: str) -> bool:
    """Whether the repository of a workspace has a commit."""
    return _git(workspace, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def _git(workspace: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=workspace, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# --- the store --------------------------------------------------------------------------------------------------------


def tracking_uri(workspace: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the workspace's SQLite file, where plain `mlflow ui` finds it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{workspace.resolve() / STORE}"


def store_file(workspace: Path) -> Path | None:
    """Return the SQLite file of a workspace's store, whether it exists or not; None for another kind of store."""
    uri = tracking_uri(workspace)
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def has_store(workspace: Path) -> bool:
    """Whether a store exists, so that reading does not create one."""
    return "MLFLOW_TRACKING_URI" in os.environ or (workspace / STORE).exists()


def client(workspace: Path) -> MlflowClient:
    """Return the MLflow client of a workspace. The first call in a new workspace creates the store (seconds).

    Its calls are bounded and raise the errors of `potstill.registry.store_calls.bounded`.

    Raises:
        StoreError: the store is unreachable.
    """
    return _client(tracking_uri(workspace))


@functools.lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    environment.prepare()
    return connect(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def experiment_id(workspace: Path, name: str) -> str:
    """Return the id of an experiment, created if it does not exist; the project's has the project's name."""
    store = client(workspace)
    experiment = store.get_experiment_by_name(name)
    if experiment is None:
        with suppress_answers("RESOURCE_ALREADY_EXISTS"):
            return create_experiment(workspace, name, {})
        return experiment_id(workspace, name)  # another process has created it meanwhile
    if experiment.lifecycle_stage == "deleted":
        store.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def create_experiment(workspace: Path, name: str, tags: Mapping[str, str]) -> str:
    """Create an experiment and return its id; MLflow refuses a name that was used before.

    A tracking server chooses the location of artifacts. With a local database they go to the workspace's
    `mlartifacts`, by an absolute path as MLflow requires; its default would create an `mlruns` folder.

    Raises:
        MlflowException: RESOURCE_ALREADY_EXISTS: the name is taken.
    """
    is_server = tracking_uri(workspace).startswith(("http:", "https:", "databricks"))
    location = None if is_server else (workspace.resolve() / ARTIFACTS / name).as_uri()
    return str(client(workspace).create_experiment(name, artifact_location=location, tags=dict(tags)))


def logged_models(workspace: Path, project: str) -> list[LoggedModel]:
    """List the models whose files a project has uploaded, those of no version included."""
    store = client(workspace)
    experiment = experiment_id(workspace, project)
    models: list[LoggedModel] = []
    token: str | None = None
    while True:
        page = store.search_logged_models([experiment], page_token=token)
        models += page
        token = page.token
        if not token:
            return models


def is_running(workspace: Path, run_id: str) -> bool:
    """Whether MLflow takes a run for going on."""
    return str(client(workspace).get_run(run_id).info.status) == "RUNNING"


def write_stage_run(workspace: Path, record: StageRecord, parent: str | None, key: str | None = None) -> str:
    """Create a finished run from a record, and return its id.

    Args:
        workspace: the workspace.
        record: the record.
        parent: id of the pipeline's run, or None.
        key: key of the record. A run that was created with it before is completed; None: another run each time.
    """
    from mlflow.entities import Metric

    store = client(workspace)
    start = round(1000 * record.start)
    end = round(1000 * record.end)
    tags = {STAGE: record.stage, OUTS: record.outs, **_workspace_tags(workspace), **record.tags}
    tags |= {_PARENT: parent} if parent else {}
    experiment = experiment_id(workspace, record.project)
    run = store.create_run(experiment, start_time=start, tags=tags, run_name=record.stage, key=key)
    run_id = str(run.info.run_id)
    series = [Metric(name, value, end, step) for step, name, value in record.history]
    series += [Metric(name, value, end, 0) for name, value in record.metrics.items()]
    store.log_batch(run_id, metrics=series, params=_entries(record.params))
    log_datasets(workspace, run_id, record.datasets, context=record.stage)
    store.set_terminated(run_id, "FINISHED", end_time=end)
    return run_id


def _entries(params: Mapping[str, Any]) -> list[Param]:
    from mlflow.entities import Param

    return [Param(key, str(value)[:_VALUE_CHARACTERS]) for key, value in params.items()]


def metric_name(name: str) -> str:
    """Replace what MLflow takes in no name of a metric, such as the parentheses in that of a work pool."""
    return re.sub(r"[^\w\-./ :]", "_", name)


def log_datasets(workspace: Path, run_id: str, datasets: Mapping[str, Mapping[str, Any]], *, context: str) -> None:
    """Log datasets as inputs of a run.

    Args:
        workspace: the workspace.
        run_id: the run that used them.
        datasets: name -> facts; `digest` and `source` are fields of MLflow, `rows` its profile, the rest are tags.
        context: purpose of the datasets.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=name,
                digest=str(facts.get("digest", ""))[:36],
                source_type="dvc",
                source=json.dumps({"uri": str(facts.get("source", name))}),
                profile=json.dumps({"num_rows": facts["rows"]}) if "rows" in facts else None,
            ),
            [InputTag("mlflow.data.context", context)]
            + [InputTag(f"potstill.{key}", str(value)[:500]) for key, value in sorted(facts.items())],
        )
        for name, facts in datasets.items()
    ]
    if inputs:
        client(workspace).log_inputs(run_id, datasets=inputs)


# --- the pipeline's run -----------------------------------------------------------------------------------------------


def start_parent(workspace: Path, project: str, params: Mapping[str, Any], artifacts: Iterable[Path]) -> str:
    """Start the MLflow run of a pipeline run and return its id; `end_parent` ends it."""
    from mlflow.entities import RunTag

    store = client(workspace)
    tags = {**_workspace_tags(workspace), **git_tags(workspace)}
    run_id: str = store.create_run(experiment_id(workspace, project), tags=tags, run_name="pipeline").info.run_id
    store.log_batch(run_id, params=_entries(params), tags=[RunTag("potstill.kind", "pipeline")])
    for path in artifacts:
        if path.exists():
            store.log_artifact(run_id, str(path))
    return run_id


def end_parent(
    workspace: Path,
    run_id: str,
    status: str,
    *,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: Iterable[Path] = (),
) -> None:
    """End the MLflow run of a pipeline run.

    Args:
        workspace: the workspace.
        run_id: id from `start_parent`.
        status: MLflow's FINISHED, FAILED or KILLED.
        metrics: final numbers.
        tags: tags such as `stage.<name>`, the id of the run that made a stage's outs.
        artifacts: files to log; those that do not exist are skipped.
    """
    from mlflow.entities import Metric, RunTag

    store = client(workspace)
    now = round(1000 * time.time())
    store.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        tags=[RunTag(key, value[:_TAG_CHARACTERS]) for key, value in tags.items()],
    )
    for path in artifacts:
        if path.exists():
            store.log_artifact(run_id, str(path))
    store.set_terminated(run_id, status)


def find_stage_run(workspace: Path, project: str, stage: str, outs: str) -> str | None:
    """Find the id of the newest run, in any pipeline run, that made these outs of a stage."""
    store = client(workspace)
    runs = store.search_runs(
        [experiment_id(workspace, project)],
        filter_string=f"tags.`{OUTS}` = '{outs}' and tags.`{STAGE}` = '{stage}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return str(runs[0].info.run_id) if runs else None


def count_evaluations(workspace: Path, project: str, test_sha256: str) -> int:
    """Count how often candidates were evaluated on a test split, on whichever machine; the same outcome counts once.

    Args:
        workspace: the workspace.
        project: name of the project.
        test_sha256: sha256 of the split's file.
    """
    store = client(workspace)
    outcomes: set[str] = set()
    token: str | None = None
    while True:
        runs = store.search_runs(
            [experiment_id(workspace, project)],
            filter_string=f"dataset.digest = '{digest(test_sha256)}' and tags.`{STAGE}` = 'evaluate'",
            page_token=token,
        )
        outcomes |= {run.data.tags.get(OUTS, run.info.run_id) for run in runs}
        token = runs.token
        if not token:
            return len(outcomes)


def digest(sha256: str) -> str:
    """Shorten a sha256 to what MLflow takes as the digest of a dataset."""
    return sha256[:32]


def end_stale_runs(workspace: Path, project: str) -> list[str]:
    """End this workspace's runs that a kill left RUNNING, and return their ids. The caller holds the run lock.

    They end as KILLED, or as FINISHED if the run had registered a version, because that is its last step. Runs whose
    process may still be alive, here or on another machine, are left alone.
    """
    store = client(workspace)
    running: Sequence[Run] = store.search_runs(
        [experiment_id(workspace, project)],
        filter_string=f"attributes.status = 'RUNNING' and tags.`{WORKSPACE_SHA}` = '{workspace_sha(workspace)}'",
    )
    ended = []
    for run in running:
        if _may_be_alive(run):
            continue
        registered = store.search_model_versions(f"run_id = '{run.info.run_id}'", max_results=1)
        store.set_terminated(run.info.run_id, "FINISHED" if registered else "KILLED")
        ended.append(str(run.info.run_id))
    return ended


def _may_be_alive(run: Run) -> bool:
    """Whether the process of a run may be alive; this process holds the run lock, so it works on no other run."""
    try:
        process = read_identity(json.loads(run.data.tags.get(PROCESS, "")))
    except ValueError:
        return False  # logged by a Potstill that did not record the process
    return process is None or (process != this_process() and not process.has_ended())


def workspace_sha(workspace: Path) -> str:
    """Return the value of `WORKSPACE_SHA` of a workspace."""
    return sha256_text(str(workspace.resolve()))[:32]


def _workspace_tags(workspace: Path) -> dict[str, str]:
    return {
        WORKSPACE: str(workspace.resolve()),
        WORKSPACE_SHA: workspace_sha(workspace),
        PROCESS: json.dumps(asdict(this_process())),
    }
