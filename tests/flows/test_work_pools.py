"""Stages on two work pools: two workers in clones of their own, with servers, git and a DVC remote between them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from flows.commands.params_changes import change_params
from flows.engine.flow_errors import ElsewhereError
from flows.engine.lost_runs import LOST
from flows.engine.pipeline_run import open_run
from potstill.compute.processes import free_port
from potstill.config.params_file import load_params
from potstill.errors import LostProcessError, ParamsError, PotstillError, PublishError, TimeLimitError, ToolError
from potstill.registry import tracking
from tests.checkout import git, start_repository
from tests.flows.conftest import Toy, serving, share, until
from tests.flows.test_pipeline_run import client_of, parents, runs
from tests.flows.toy.common import write_student
from tests.registries import new_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # in DVC's own trie
]
FLOW = "potstill-stages"
SETTINGS = [
    'schedule.pools={"cpu": ["prepare"], "gpu": ["export"]}',
    "gate.max_p99_ms=0.1",  # refused, so that no Bento is built
]


@dataclass(frozen=True)
class Team:
    """Two machines, the first with a worker.

    Attributes:
        cpu: the clone in which the pool `cpu` does whole runs, and that machine's environment.
        gpu: the folder of the machine of the pool `gpu`.
        gpu_variables: that machine's environment.
    """

    cpu: Toy
    gpu: Path
    gpu_variables: dict[str, str]

    def run(self) -> tuple[Any, str]:
        """Have the pool `cpu` do a whole run; return its last state and the log of the worker of `gpu`."""
        with client_of(self.cpu) as client:
            started = client.create_flow_run_from_deployment(client.read_deployment_by_name("potstill/on-cpu").id)
            assert until(lambda: client.read_flow_run(started.id).state.is_final(), 900, pause_seconds=1)
            return client.read_flow_run(started.id).state, (self.gpu / "worker.txt").read_text()


def machine(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """The environment of a machine, on which nothing of another one is."""
    own = {
        name: str(folder / name) for name in ("HOME", "TMPDIR", "PREFECT_HOME", "DVC_SITE_CACHE_DIR", "BENTOML_HOME")
    }
    for path in own.values():
        Path(path).mkdir(parents=True)
    return variables | own | {"PREFECT_WORKER_QUERY_SECONDS": "3"}


@contextmanager
def working(folder: Path, pool: str, variables: dict[str, str]) -> Iterator[psutil.Process]:
    """Run a worker of a pool on a machine."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", "1"]
    with (folder / "worker.txt").open("wb") as log:
        worker = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
    try:
        yield psutil.Process(worker.pid)
    finally:
        worker.terminate()
        worker.wait(60)


def gpu_worker(team: Team, **more: str) -> AbstractContextManager[psutil.Process]:
    """Run the worker of the pool `gpu`, with more in its environment."""
    return working(team.gpu, "gpu", team.gpu_variables | more)


@pytest.fixture
def team(template: Path, variables: dict[str, str], prefect_server: str) -> Iterator[Team]:
    # Not in pytest's folder, since a socket in a machine's TMPDIR has a path of 107 characters at most.
    with TemporaryDirectory(prefix="team-") as folder:
        yield from team_in(Path(folder), template, variables, prefect_server)


def team_in(base: Path, template: Path, variables: dict[str, str], prefect_server: str) -> Iterator[Team]:
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
        running.enter_context(working(base / "cpu", "cpu", machines["cpu"]))
        yield Team(cpu, base / "gpu", machines["gpu"])
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
    """The runs for workers of other pools."""
    from prefect.client.schemas.filters import FlowFilter

    flow = FlowFilter.model_validate({"name": {"any_": [FLOW]}})
    with client_of(toy) as client:
        return [run for run in client.read_flow_runs(flow_filter=flow) if run.work_pool_name == "gpu"]


def assert_student_is_exact(toy: Toy, folder: Path) -> None:
    """The served student has the bytes of the one that one machine makes, which is written to an empty folder."""
    write_student(folder, 2.0 + load_params(toy.folder / "params.yaml").finetune.learning_rate)
    for path in folder.iterdir():
        assert (toy.folder / "data/serving" / path.name).read_bytes() == path.read_bytes()


def test_stages_run_in_the_clones_of_their_pools_with_the_sums_of_one_machine(
    team: Team, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = team.cpu
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cpu.variables["MLFLOW_TRACKING_URI"])
    with gpu_worker(team):
        state, log = team.run()
    assert state.name == "Refused", (state.message, log)
    (handed,) = handed_runs(cpu)
    assert handed.state.name == "Completed", log
    (parent,) = parents(cpu)
    stages = {run.info.run_name: run for run in runs(cpu) if run.data.tags.get("mlflow.parentRunId")}
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent.info.run_id}
    assert {name: run.info.run_id for name, run in stages.items()} == {
        name: parent.data.tags[f"stage.{name}"] for name in ("prepare", "export", "evaluate")
    }
    machines = {name: Path(run.data.tags["potstill.workspace"]) for name, run in stages.items()}
    assert machines["prepare"] == machines["evaluate"] == cpu.folder
    assert machines["export"].is_relative_to(team.gpu)
    assert_student_is_exact(cpu, tmp_path_factory.mktemp("student"))

    again = cpu.run("run")
    assert (again.code, again.out.count(": current")) == (7, 3), again
    assert len(handed_runs(cpu)) == 1


def test_what_stops_a_worker_arrives_with_its_exit_code_and_sentence(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.engine.pool_flow import run_part
    from flows.engine.work_pools import Part, _handed_back, _raise_failure

    monkeypatch.chdir(tmp_path)
    part = Part("reviews", str(tmp_path / "origin"), "", "c0ffee", "", ["signals"], "", 0.0)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state: Any = run_part(part, return_state=True)
        handed_back = _handed_back(state.state_details.flow_run_id)
    with pytest.raises(
        ElsewhereError, match=r"^signals on work pool gpu: schedule.pools: `git fetch .*push the comm"
    ) as e:
        _raise_failure("signals on work pool gpu", state, handed_back, "calm-otter")
    assert (state.name, e.value.exit_code) == ("Failed", PublishError.exit_code)


def test_a_clone_whose_git_was_killed_is_used_again(tmp_path: Path) -> None:
    from flows.engine.pool_flow import _check_out
    from flows.engine.work_pools import Part

    origin = tmp_path / "origin"
    (origin / "my workspace").mkdir(parents=True)
    (origin / "my workspace/params.yaml").write_text("one")
    commit = start_repository(origin)
    part = Part("reviews", str(origin), "my workspace/", commit, "", ["signals"], "", 0.0)
    for _ in range(2):
        workspace = _check_out(tmp_path / "clone", part)
        assert (workspace / "params.yaml").read_text() == "one"
        (workspace / "params.yaml").write_text("cut off")
        for name in ("index", "HEAD", "config", "shallow"):  # as git leaves them after a kill
            (tmp_path / "clone/.git" / f"{name}.lock").touch()


def test_what_nobody_begins_is_cancelled_within_its_limit(toy: Toy, prefect_server: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.engine.work_pools import _register, _wait

    limits = {
        "schedule.wait_minutes": (
            LostProcessError,
            r"no worker has begun export on work pool idle within 0.001 minutes; start one \(`prefect worker start",
        ),
        "schedule.run_minutes": (TimeLimitError, "the run, at export on work pool idle, ran past its limit of 0.001"),
    }
    with client_of(toy) as client, temporary_settings({PREFECT_API_URL: prefect_server}):
        with pytest.raises(ToolError, match=r"schedule.pools names idle, but .* has no such work pool"):
            _register("idle")
        client.create_work_pool(WorkPoolCreate(name="idle", type="process"))
        _register("idle")
        for key, (error, sentence) in limits.items():
            change_params(toy.folder / "params.yaml", None, [f"{key}=0.001"])
            handed: Any = run_deployment(f"{FLOW}/idle", timeout=0)
            with open_run(toy.folder) as run, pytest.raises(error, match=sentence):
                _wait(run, "idle", ["export"], handed.id)
            assert client.read_flow_run(handed.id).state.is_cancelled()
            change_params(toy.folder / "params.yaml", None, [f"{key}=10"])
        handed = run_deployment(f"{FLOW}/idle", timeout=0)
        client.delete_flow_run(handed.id)
        with open_run(toy.folder) as run, pytest.raises(LostProcessError, match="idle: its run was deleted in Prefect"):
            _wait(run, "idle", ["export"], handed.id)


def test_what_stands_in_the_way_is_one_sentence_before_any_work(
    offline_toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.engine.work_pools import _check_stages, _check_ways

    folder = offline_toy.folder
    with open_run(folder) as run:
        with pytest.raises(ParamsError, match=r"schedule.pools.gpu names 'exprt', which is no stage .* its stages are"):
            _check_stages(run, "gpu", ["exprt"], moved=True)
        with pytest.raises(ParamsError, match=r"schedule.pools.gpu names evaluate, which writes a file that DVC does"):
            _check_stages(run, "gpu", ["export", "evaluate"], moved=True)
    share(folder, tmp_path, offline_toy.variables, SETTINGS)
    with pytest.raises(ToolError, match=r"schedule.pools needs an MLflow server"):
        _check_ways(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    change_params(folder / "params.yaml", None, ["finetune.learning_rate=0.5"])
    with pytest.raises(PublishError, match=r"schedule.pools: params.yaml in .* differs from the commit"):
        _check_ways(folder)
    (folder / ".dvc/config").write_text("")
    with pytest.raises(PublishError, match=r"schedule.pools: DVC has no default remote in .*dvc remote add"):
        _check_ways(folder)


def test_a_workspace_that_was_never_committed_differs_from_the_commit(tmp_path: Path) -> None:
    from flows.engine.work_pools import _check_ways

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "start", "--allow-empty")
    git(tmp_path, "remote", "add", "origin", str(tmp_path))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--subdir"], cwd=workspace, check=True)
    (workspace / ".dvc/config").write_text("[core]\nremote = store\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "DVC")
    for name in ("params.yaml", "dvc.yaml", "notes.txt"):
        (workspace / name).touch()
    with pytest.raises(PublishError, match=r"schedule.pools: dvc.yaml, params.yaml in .*/workspace differs from"):
        _check_ways(workspace)


def test_how_a_worker_ended_is_told_by_its_error() -> None:
    from prefect.states import Crashed, Failed

    from flows.engine.work_pools import _raise_failure

    full = {"exit_code": 5, "message": "no space is left"}
    with pytest.raises(ElsewhereError, match=r"^signals on work pool gpu: no space is left$") as raised:
        _raise_failure("signals on work pool gpu", Failed(), [{"stage": "teacher", "lock": ""}, full], "calm-otter")
    assert raised.value.exit_code == 5
    for state, kind in ((Crashed(name=LOST, message="Nothing was heard"), LostProcessError), (Failed(), PotstillError)):
        with pytest.raises(kind, match=rf"^signals on work pool gpu ended as {state.name} .*run again") as raised:
            _raise_failure("signals on work pool gpu", state, [], "calm-otter")
        assert type(raised.value) is kind
