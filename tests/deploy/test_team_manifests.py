"""The servers of a team for Docker, against the schema of Debian's docker-compose, and the base for kustomize."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.commands.follow_champion import DRAIN_SECONDS
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SECRETS = ("POSTGRES_PASSWORD", "STORE_KEY", "STORE_SECRET", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY", "PREFECT_AUTH")


@pytest.fixture(scope="module")
def compose() -> str:
    """The program that reads compose files; it needs no Docker for that."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (apt-get install docker-compose)")
    return program


def _config(compose: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Read a compose file with no other variables than these."""
    command = [compose, "--file", str(path), "config", "--quiet"]
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_compose_fits_the_schema_and_every_secret_comes_from_the_environment(compose: str, tmp_path: Path) -> None:
    variables = {name: f"value of {name}" for name in SECRETS} | {"WORKSPACE": str(tmp_path)}
    done = _config(compose, COMPOSE, **variables)
    assert done.returncode == 0, done
    without = {name: value for name, value in variables.items() if name != "STORE_SECRET"}
    refused = _config(compose, COMPOSE, **without)
    assert "STORE_SECRET" in refused.stderr
    assert refused.returncode != 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("working_dir:", "work_dir:"))
    assert "work_dir" in _config(compose, wrong, **variables).stderr


def test_compose_starts_the_whole_set_and_its_files_are_there() -> None:
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert set(services) == {"postgres", "store", "bucket", "mlflow", "prefect", "worker", "service"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    copied = (DEPLOY / "team/Dockerfile.dockerignore").read_text(encoding="utf-8").split()[1:]
    assert [name for name in copied if not (REPOSITORY / name[1:]).exists()] == []


def test_its_service_may_drain() -> None:
    service = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["service"]
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS


def test_the_base_names_the_manifests_and_their_image() -> None:
    base = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text(encoding="utf-8"))
    assert base["resources"] == ["kubernetes.yaml"]
    (image,) = base["images"]
    assert f"image: {image['name']}:{image['newTag']}" in (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
