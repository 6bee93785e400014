"""The registry on a server of MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from potstill.registry import store_calls, tracking
from potstill.registry.agreement import disagreements
from potstill.registry.promotion import Registry
from potstill.registry.store_calls import RUN, patience
from tests.outages import Door
from tests.racing import mlflow_server
from tests.registries import add_version, new_store

CREATIONS = ("experiments/create", "runs/create", "logged-models", "registered-models/create", "model-versions/create")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server, with its artifacts."""
    return new_store(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def address(slow: None, folder: Path) -> Iterator[str]:
    with mlflow_server(f"sqlite:///{folder / 'mlflow.db'}", folder) as address:
        yield address


def test_the_files_of_a_removed_version_are_deleted(
    address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    registry = Registry(tmp_path, "removed")
    for number, content in enumerate(("one", "two"), start=1):
        add_version(registry, content, bento=f"potstill-x:{number}")
    registry.approve("2")
    assert len(list((folder / "artifacts").rglob("model.onnx"))) == 2
    assert registry.remove(["1"], "gc") == ["1"]
    registry.verify(registry.get("2"))
    assert list(disagreements(registry)) == []
    assert len(list((folder / "artifacts").rglob("model.onnx"))) == 1


def test_what_was_created_without_an_answer_is_not_created_again(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_calls, "_RETRY_SECONDS", 0.1)
    door = Door(urlsplit(address).port or 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{door.port}")
    registry = Registry(tmp_path, "unanswered")
    with patience(RUN):
        tracking.client(tmp_path).search_experiments()
        door.unanswered = [f"POST /api/2.0/mlflow/{path} ".encode() for path in CREATIONS]
        add_version(registry, "one")
    assert door.unanswered == []
    assert [version.version for version in registry.versions()] == ["1"]
    assert len(tracking.logged_models(tmp_path, registry.name)) == 1
    runs = tracking.client(tmp_path).search_runs([tracking.experiment_id(tmp_path, registry.name)])
    assert len(runs) == 1
    assert list(disagreements(registry)) == []
    door.close()
