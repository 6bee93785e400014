"""Stages on two work pools: two workers in clones of their own, with servers, git and a DVC remote between them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.commands.params_changes import change_params
from flows.engine.work_pools import FLOW
from potstill.compute.processes import free_port
from potstill.registry import tracking
from tests.checkout import git
from tests.flows.conftest import Toy, serving, share, until
from tests.flows.test_pipeline_run import client_of, parents, runs
from tests.registries import new_store

SETTINGS = [
    'schedule.pools={"cpu": ["prepare"], "gpu": ["export"]}',
    "gate.max_p99_ms=0.1",  # refused, so that no Bento is built
]


@dataclass(frozen=True)
class Team:
    """Two machines, each with a worker.

    Attributes:
        cpu: the clone in which the pool `cpu` does whole runs, and that machine's environment.
        gpu: the folder of the machine of the pool `gpu`.
        worker: the worker there.
    """

    cpu: Toy
    gpu: Path
    worker: subprocess.Popen[bytes]


def machine(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """The environment of a machine, on which nothing of another one is."""
    own = {
        name: str(folder / name) for name in ("HOME", "TMPDIR", "PREFECT_HOME", "DVC_SITE_CACHE_DIR", "BENTOML_HOME")
    }
    for path in own.values():
        Path(path).mkdir(parents=True)
    return variables | own | {"PREFECT_WORKER_QUERY_SECONDS": "1"}


def start_worker(folder: Path, pool: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "worker.txt").open("wb") as log:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", "1"]
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def team(
    template: Path, variables: dict[str, str], prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    base = tmp_path_factory.mktemp("team")
    store, url = new_store(base / "mlflow"), f"http://127.0.0.1:{free_port()}"
    servers = variables | {"PREFECT_API_URL": prefect_server, "MLFLOW_TRACKING_URI": url}
    arguments = ["-m", "mlflow", "server", "--workers", "1", "--port", url.rpartition(":")[2], "--backend-store-uri"]
    arguments += [tracking.tracking_uri(store), "--artifacts-destination", str(store / "artifacts")]
    with ExitStack() as running:
        quiet = variables | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        running.enter_context(serving(arguments, f"{url}/health", store / "log.txt", quiet))
        folder = base / "workspace"
        shutil.copytree(template, folder)
        share(folder, base, variables, SETTINGS)
        machines = {pool: machine(base / pool, servers) for pool in ("cpu", "gpu")}
        git(base, "clone", "-q", "--branch", "main", "origin", "cpu/clone")
        cpu = Toy(base / "cpu/clone", machines["cpu"])
        register(cpu)
        workers = {}
        for pool, its_variables in machines.items():
            workers[pool] = worker = start_worker(base / pool, pool, its_variables)
            running.callback(worker.wait, 60)
            running.callback(worker.terminate)
        yield Team(cpu, base / "gpu", workers["gpu"])
        cpu.close()


def register(cpu: Toy) -> None:
    """Make both work pools, and a deployment of whole runs on `cpu`."""
    from prefect.client.schemas.actions import WorkPoolCreate

    with client_of(cpu) as client:
        for pool in ("cpu", "gpu"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.create_deployment(
            client.create_flow_from_name("potstill"), "on-cpu", work_pool_name="cpu",
            entrypoint="flows.engine.prefect_flow.potstill", parameters={"workspace": str(cpu.folder)},
        )  # fmt: skip


def handed_runs(toy: Toy) -> list[Any]:
    """The runs that a worker of another pool was handed."""
    from prefect.client.schemas.filters import FlowFilter

    with client_of(toy) as client:
        return list(client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}})))


def test_stages_run_in_the_clones_of_their_pools_with_the_sums_of_one_machine(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = team.cpu
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cpu.variables["MLFLOW_TRACKING_URI"])
    with client_of(cpu) as client:
        started = client.create_flow_run_from_deployment(client.read_deployment_by_name("potstill/on-cpu").id)
        assert until(lambda: client.read_flow_run(started.id).state.is_final(), 900, pause_seconds=1)
        state = client.read_flow_run(started.id).state
    log = (team.gpu / "worker.txt").read_text()
    assert state.name == "Refused", (state.message, log)
    (handed,) = handed_runs(cpu)
    assert (handed.work_pool_name, handed.state.name) == ("gpu", "Completed")
    (parent,) = parents(cpu)
    stages = {run.info.run_name: run for run in runs(cpu) if run.data.tags.get("mlflow.parentRunId")}
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent.info.run_id}
    machines = {name: Path(run.data.tags["potstill.workspace"]) for name, run in stages.items()}
    assert machines["prepare"] == machines["evaluate"] == cpu.folder
    assert machines["export"].is_relative_to(team.gpu)
    assert {name: parent.data.tags[f"stage.{name}"] for name in stages} == {
        name: run.info.run_id for name, run in stages.items()
    }

    # Nothing has changed, so nothing is handed on.
    again = cpu.run("run")
    assert (again.code, again.out.count(": current")) == (7, 3), again
    assert len(handed_runs(cpu)) == 1

    lock = (cpu.folder / "dvc.lock").read_bytes()
    here = [sys.executable, "-m", "dvc", "repro", "--quiet", "--force", "--single-item", "export"]
    records = {"POTSTILL_RECORDS": str(cpu.folder / ".work/here")}
    subprocess.run(here, cwd=cpu.folder, env=cpu.variables | records, check=True)
    assert (cpu.folder / "dvc.lock").read_bytes() == lock


def test_a_failure_there_and_a_pool_without_a_worker_are_a_sentence_here(team: Team) -> None:
    cpu = team.cpu
    change_params(cpu.folder / "params.yaml", None, ["finetune.learning_rate=0.5"])
    not_committed = cpu.run("run")
    assert (not_committed.code, "params.yaml in" in not_committed.err) == (57, True), not_committed
