"""Real servers with accounts: MLflow and Prefect on PostgreSQL, artifacts and data in an S3 object store."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from flows.commands.params_changes import change_params
from flows.engine.prefect_server import wait_ready
from potstill.compute.processes import free_port
from potstill.errors import RegistryError, StoreError, ToolError
from potstill.paths import RECORDS
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.serving.release import verify_seal
from tests.conftest import REPOSITORY
from tests.flows.conftest import Ended, Toy, ended, serving, until
from tests.flows.test_pipeline_run import runs
from tests.object_store import ObjectStore, need_object_store, object_store
from tests.outages import Door
from tests.postgres import BINARIES, Cluster, cluster, need_postgres
from tests.registries import PROJECT

DATABASES = ("mlflow", "accounts", "prefect")


@dataclass(frozen=True)
class TeamServers:
    """The servers that run, and what lets a client in."""

    mlflow: str
    prefect: str
    store: ObjectStore
    password: str
    auth: str
    cluster: Cluster
    databases: dict[str, str]
    folder: Path
    mlflow_door: Door
    prefect_door: Door

    @property
    def credentials(self) -> dict[str, str]:
        """Variables of the environment of a client; no URL of a server, which params name."""
        return {
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "PREFECT_API_AUTH_STRING": self.auth,
            **self.store.variables,
        }

    def has_secret(self, content: bytes) -> bool:
        """Whether this holds what no file may hold."""
        return any(secret.encode() in content for secret in (self.password, self.auth, self.store.secret))

    def dump(self, name: str) -> bytes:
        """The content of a database."""
        dump = [BINARIES[-1] / "pg_dump", self.databases[name]]
        return subprocess.run(dump, stdout=subprocess.PIPE, check=True).stdout


@pytest.fixture(scope="module")
def servers(slow: None, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServers]:
    need_postgres()
    need_object_store()
    folder, password, auth = tmp_path_factory.mktemp("servers"), secrets.token_hex(16), f"team:{secrets.token_hex(16)}"
    with ExitStack() as running:
        postgresql = running.enter_context(cluster())
        store = running.enter_context(object_store())
        databases = _create_databases(postgresql.uri)
        store.create_bucket("team")
        accounts = folder / "accounts.ini"
        values = {"default_permission": "READ", "database_uri": databases["accounts"], "auth_cache_ttl_seconds": 60}
        accounts.write_text("\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in values.items())]))
        ports = {name: free_port() for name in ("mlflow", "prefect")}
        addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        running.enter_context(serving(
            ["-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--port", str(ports["mlflow"]),
             "--backend-store-uri", databases["mlflow"], "--artifacts-destination", "s3://team/mlflow"],
            f"{addresses['mlflow']}/health", folder / "mlflow.txt", variables | store.variables | {
                "MLFLOW_AUTH_CONFIG_PATH": str(accounts), "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                "MLFLOW_AUTH_ADMIN_PASSWORD": password, "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ))  # fmt: skip
        running.enter_context(serving(
            ["-m", "prefect", "server", "start", "--port", str(ports["prefect"]), "--no-ui"],
            f"{addresses['prefect']}/api/health", folder / "prefect.txt", variables | {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": databases["prefect"].replace("sql:", "sql+asyncpg:"),
                "PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_HOME": str(folder / "prefect"),
            },
        ))  # fmt: skip
        doors = [Door(port) for port in ports.values()]
        for door in doors:
            running.callback(door.close)
        mlflow, prefect = (f"http://127.0.0.1:{door.port}" for door in doors)
        yield TeamServers(mlflow, f"{prefect}/api", store, password, auth, postgresql, databases, folder, *doors)


def _create_databases(uri: str) -> dict[str, str]:
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in DATABASES:
            cursor.execute(f"create database {name}")
    connection.close()
    return {name: uri.replace("/postgres", f"/{name}") for name in DATABASES}


@pytest.fixture
def team_toy(offline_toy: Toy, servers: TeamServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy workspace with the profile of the servers, and their credentials in its environment alone."""
    profile = (REPOSITORY / "profiles/server.yaml").read_text(encoding="utf-8")
    profile = profile.replace("https://mlflow.example.org", servers.mlflow)
    path = tmp_path / "server.yaml"
    path.write_text(profile.replace("https://prefect.example.org/api", servers.prefect), encoding="utf-8")
    change_params(offline_toy.folder / "params.yaml", path, [])
    (offline_toy.folder / "mlflow.db").unlink()
    for variable, value in (servers.credentials | {"MLFLOW_TRACKING_URI": servers.mlflow}).items():
        monkeypatch.setenv(variable, value)
    return Toy(offline_toy.folder, offline_toy.variables | servers.credentials, offline_toy.started)


def _run_while_servers_are_away(toy: Toy, servers: TeamServers) -> Ended:
    """Run to a candidate that is refused. Two stages end while no server can be reached."""
    waiting = toy.folder / ".work/waiting"
    run = toy.start("run", "--set", "gate.max_p99_ms=0.1", TOY_WAIT="export")
    assert until(lambda: waiting.exists() or run.poll() is not None)
    _end_connections(servers.databases["mlflow"])
    servers.mlflow_door.close()
    servers.prefect_door.close()
    waiting.unlink()
    records = toy.folder / RECORDS
    assert until(lambda: [*records.glob("evaluate-*.json")] or run.poll() is not None)
    servers.mlflow_door.open()
    assert until(lambda: not [*records.iterdir()] or run.poll() is not None)
    servers.prefect_door.open()  # the gate waits for it
    return ended(run)


def _end_connections(uri: str) -> None:
    """End all connections to PostgreSQL, as its restart does."""
    connection = psycopg2.connect(uri)
    with connection.cursor() as cursor:
        cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    connection.close()


def _clone(toy: Toy, folder: Path) -> Path:
    """Make what `git clone` and `dvc pull` give."""
    skipped = shutil.ignore_patterns("cache", "tmp", "prepared", "serving", "evaluation", ".work")
    shutil.copytree(toy.folder, folder, ignore=skipped)
    for workspace, command in ((toy.folder, "push"), (folder, "pull")):
        subprocess.run([sys.executable, "-m", "dvc", command, "-q"], cwd=workspace, env=toy.variables, check=True)
    assert (folder / "data/serving/model.onnx").exists()
    return folder


def test_a_run_outlives_an_outage_two_clones_share_one_registry_and_no_file_has_a_secret(
    team_toy: Toy, servers: TeamServers, tmp_path: Path
) -> None:
    remote = f"['remote \"store\"']\nurl = s3://team/dvc\nendpointurl = {servers.store.url}\n"
    (team_toy.folder / ".dvc/config").write_text(f"[core]\nremote = store\n{remote}", encoding="utf-8")
    refused = _run_while_servers_are_away(team_toy, servers)
    assert (refused.code, "refused" in refused.err) == (7, True), refused
    assert not (team_toy.folder / "mlflow.db").exists()
    recorded = sorted(runs(team_toy), key=lambda run: str(run.info.run_name))
    assert [run.info.run_name for run in recorded] == ["evaluate", "export", "pipeline", "prepare"]
    assert {run.info.status for run in recorded} == {"FINISHED"}
    losses = tracking.client(team_toy.folder).get_metric_history(recorded[1].info.run_id, "loss")
    assert [(loss.step, loss.value) for loss in losses] == [(0, 1.0), (1, 0.5)]
    promoted = team_toy.run("run", "--set", "gate.max_p99_ms=null")
    assert promoted.code == 0, promoted
    first = Registry(team_toy.folder, PROJECT)
    candidate = first.get("champion")

    second = Registry(_clone(team_toy, tmp_path / "second"), PROJECT)
    assert second.champion() == candidate
    second.fetch_bento(candidate, tmp_path / "bento")
    verify_seal(tmp_path / "bento")
    second.veto(candidate.version, "wrong on negations")
    assert first.champion() is None
    with pytest.raises(RegistryError, match="wrong on negations"):
        first.approve(candidate.version)
    assert first.history() == second.history()

    stored = [path for path in servers.store.data.rglob("*") if path.is_file()]
    files = [path for folder in (tmp_path, servers.folder) for path in folder.rglob("*") if path.is_file()]
    assert min(len(stored), len(files)) > 20
    assert [path for path in (*stored, *files) if servers.has_secret(path.read_bytes())] == []
    dumps = {name: servers.dump(name) for name in ("mlflow", "prefect")}
    assert b"wrong on negations" in dumps["mlflow"]
    assert b"Refused" in dumps["prefect"]
    said = (refused.out + refused.err + promoted.out + promoted.err).encode()
    assert not any(servers.has_secret(content) for content in (*dumps.values(), said))


@pytest.mark.parametrize("password", ["wrong", ""])
def test_credentials_of_mlflow_that_are_wrong_or_missing_are_a_sentence(
    team_toy: Toy, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(StoreError, match=r"refuses this user.*check MLFLOW_TRACKING_USERNAME and"):
        Registry(team_toy.folder, PROJECT).champion()


@pytest.mark.parametrize("auth", ["team:wrong", None])
def test_credentials_of_prefect_that_are_wrong_or_missing_are_a_sentence(
    servers: TeamServers, auth: str | None
) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: servers.prefect, PREFECT_API_AUTH_STRING: auth}
    with temporary_settings(settings), pytest.raises(ToolError, match=r"refuses this user.*check PREFECT_API_AUTH"):
        wait_ready(None)
