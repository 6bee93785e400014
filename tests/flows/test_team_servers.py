"""Real servers with accounts: MLflow and Prefect on PostgreSQL, artifacts and data in an S3 object store."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from flows.commands.params_changes import change_params
from potstill.compute.processes import free_port, start, stop
from potstill.registry.promotion import Registry
from tests.conftest import REPOSITORY
from tests.flows.conftest import Toy, answers, until
from tests.object_store import ObjectStore, need_object_store, object_store
from tests.postgres import BINARIES, need_postgres, postgres
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
    database: str
    folder: Path

    @property
    def credentials(self) -> dict[str, str]:
        """Variables of the environment of a client; no URL of a server, which params name."""
        return {
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "PREFECT_API_AUTH_STRING": self.auth,
            **self.store.variables,
        }

    @property
    def secrets(self) -> list[str]:
        """What no file may hold."""
        return [self.password, self.auth, self.store.secret]


@pytest.fixture(scope="module")
def servers(slow: None, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServers]:
    need_postgres()
    need_object_store()
    folder, password, auth = tmp_path_factory.mktemp("servers"), secrets.token_hex(16), f"team:{secrets.token_hex(16)}"
    with ExitStack() as running:
        uri = running.enter_context(postgres())
        store = running.enter_context(object_store())
        databases = {name: uri.replace("/postgres", f"/{name}") for name in DATABASES}
        _create_databases(uri)
        _s3(store).create_bucket(Bucket="team")
        accounts = folder / "accounts.ini"
        values = {"default_permission": "READ", "database_uri": databases["accounts"], "auth_cache_ttl_seconds": 60}
        accounts.write_text("\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in values.items())]))
        mlflow, prefect = free_port(), free_port()
        running.enter_context(_server(
            folder / "mlflow.txt", f"http://127.0.0.1:{mlflow}/health",
            ["-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--host", "127.0.0.1", "--port",
             str(mlflow), "--backend-store-uri", databases["mlflow"], "--artifacts-destination", "s3://team/mlflow"],
            variables | store.variables | {
                "MLFLOW_AUTH_CONFIG_PATH": str(accounts), "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                "MLFLOW_AUTH_ADMIN_PASSWORD": password, "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ))  # fmt: skip
        running.enter_context(_server(
            folder / "prefect.txt", f"http://127.0.0.1:{prefect}/api/health",
            ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect), "--no-ui"],
            variables | {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": databases["prefect"].replace("sql:", "sql+asyncpg:"),
                "PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_HOME": str(folder / "prefect"),
            },
        ))  # fmt: skip
        yield TeamServers(
            f"http://127.0.0.1:{mlflow}",
            f"http://127.0.0.1:{prefect}/api",
            store,
            password,
            auth,
            databases["mlflow"],
            folder,
        )


def _create_databases(uri: str) -> None:
    import psycopg2

    connection = psycopg2.connect(uri)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in DATABASES:
            cursor.execute(f"create database {name}")
    connection.close()


def _s3(store: ObjectStore) -> boto3.client:
    return boto3.client(
        "s3", endpoint_url=store.url, aws_access_key_id=store.key, aws_secret_access_key=store.secret,
        region_name="us-east-1",
    )  # fmt: skip


@contextmanager
def _server(log: Path, health: str, arguments: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    with log.open("wb") as output:
        server = start([sys.executable, *arguments], environment=environment, stdout=output, stderr=output)
        try:
            assert until(lambda: answers(health) or server.poll() is not None), log.read_text()
            assert server.poll() is None, log.read_text()
            yield
        finally:
            stop(server)


@pytest.fixture
def team_toy(offline_toy: Toy, servers: TeamServers, tmp_path: Path) -> Toy:
    """A toy workspace with the profile of the servers, and their credentials in its environment alone."""
    profile = (REPOSITORY / "profiles/server.yaml").read_text(encoding="utf-8")
    profile = profile.replace("https://mlflow.example.org", servers.mlflow)
    path = tmp_path / "server.yaml"
    path.write_text(profile.replace("https://prefect.example.org/api", servers.prefect), encoding="utf-8")
    change_params(offline_toy.folder / "params.yaml", path, [])
    (offline_toy.folder / "mlflow.db").unlink()
    variables = offline_toy.variables | servers.credentials | {"BENTOML_HOME": str(tmp_path / "bentoml")}
    return Toy(offline_toy.folder, variables, offline_toy.started)


def _dvc(toy: Toy, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=toy.folder, env=toy.variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done


def test_two_clones_share_one_registry_and_no_file_has_a_secret(
    team_toy: Toy, servers: TeamServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = team_toy.run("run")
    assert done.code == 0, done
    assert not (team_toy.folder / "mlflow.db").exists()
    _dvc(team_toy, "remote", "add", "-d", "store", "s3://team/dvc")
    _dvc(team_toy, "remote", "modify", "store", "endpointurl", servers.store.url)
    _dvc(team_toy, "push", "-q")
    stored = _objects(servers.store)
    assert {name.split("/")[0] for name in stored} == {"mlflow", "dvc"}

    second = Toy(tmp_path / "second", team_toy.variables | {"BENTOML_HOME": str(tmp_path / "second-bentos")})
    skipped = shutil.ignore_patterns("cache", "tmp", "prepared", "serving", "evaluation", ".work")
    shutil.copytree(team_toy.folder, second.folder, ignore=skipped)
    _dvc(second, "pull", "-q")
    vetoed = second.run("veto", "1", "--reason", "wrong on negations")
    assert vetoed.code == 0, vetoed
    told = [toy.run("history").out for toy in (team_toy, second)]
    assert told[0] == told[1]
    assert "veto done: reason wrong on negations" in told[0]
    again = team_toy.run("approve", "1")
    assert (again.code, "vetoed" in again.err) == (50, True), again

    for variable, value in (servers.credentials | {"MLFLOW_TRACKING_URI": servers.mlflow}).items():
        monkeypatch.setenv(variable, value)
    assert Registry(second.folder, PROJECT).champion() is None
    files = [path for folder in (tmp_path, servers.folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    leaks = [path for path in files if _has_secret(path.read_bytes(), servers)]
    assert leaks == []
    assert [name for name, content in _objects(servers.store).items() if _has_secret(content, servers)] == []
    dump = subprocess.run([BINARIES[-1] / "pg_dump", servers.database], capture_output=True, check=True).stdout
    assert b"wrong on negations" in dump
    assert not _has_secret(dump, servers)
    for text in (done.out, done.err, vetoed.out, vetoed.err, *told, again.out, again.err):
        assert not _has_secret(text.encode(), servers)


def _objects(store: ObjectStore) -> dict[str, bytes]:
    client = _s3(store)
    names = [item["Key"] for item in client.list_objects_v2(Bucket="team")["Contents"]]
    return {name: client.get_object(Bucket="team", Key=name)["Body"].read() for name in names}


def _has_secret(content: bytes, servers: TeamServers) -> bool:
    return any(secret.encode() in content for secret in servers.secrets)


@pytest.mark.parametrize(
    ("command", "changes", "code", "sentence"),
    [
        ("history", {"MLFLOW_TRACKING_PASSWORD": "wrong"}, 53, "refuses this user"),
        ("history", {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, 53, "refuses this user"),
        ("run", {"PREFECT_API_AUTH_STRING": "team:wrong"}, 60, "check PREFECT_API_AUTH_STRING"),
    ],
)
def test_credentials_that_are_wrong_or_missing_are_a_sentence(
    team_toy: Toy, command: str, changes: dict[str, str], code: int, sentence: str
) -> None:
    done = team_toy.run(command, **changes)
    assert done.code == code, done
    assert sentence in done.err
    assert done.err.count("\n") == 1
