"""A second machine: a clone of the workspace with the same MLflow store and a BentoML store of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from potstill.artifacts import file_sums
from potstill.config import load_params
from potstill.processes import free_port
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.stored import pack_bento
from potstill.registry.versions import BENTO, GATE, candidate_sum
from potstill.serving.launch import bento_path
from tasks.package import package
from tests.flows.conftest import REPOSITORY, until
from tests.potstill.serving.folders import flip_byte, write_workspace
from tests.registries import PASSED, PROJECT, new_store


def register_bento(registry: Registry, bento: Path, scratch: Path) -> str:
    """Register a real Bento's candidate, and give its version."""
    serving = bento / "src/data/serving"
    model = scratch / "model"
    shutil.copytree(serving, model / "data/serving")
    run = tracking.start_parent(registry.workspace, PROJECT, {}, [])
    version = registry.register(
        candidate=candidate_sum(serving), model=model, extras=scratch / "extras",
        seal=pack_bento(bento, scratch / "extras"), experiment=tracking.experiment_id(registry.workspace, PROJECT),
        run_id=run, tags={GATE: PASSED, BENTO: f"{bento.parent.name}:{bento.name}"}, description="",
    )  # fmt: skip
    return version.version


def test_the_champion_is_served_from_a_second_clone_without_a_promotion(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_store(write_workspace(tiny_base, tmp_path / "first", ["good film", "bad film"]))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "first-bentos"))
    packaged = package(load_params(first / "params.yaml"), first)
    registry = Registry(first, PROJECT)
    registry.promote(register_bento(registry, packaged.path, tmp_path / "scratch"), expected=None)
    sums, history = file_sums(packaged.path), registry.ledger.lines()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(first))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "second-bentos"))
    second = tmp_path / "second"
    second.mkdir()
    shutil.copyfile(first / "params.yaml", second / "params.yaml")
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (
        (second / "log.txt").open("wb") as log,
        subprocess.Popen(command, cwd=second, env=variables, stdout=log, stderr=log) as server,
    ):
        try:
            assert until(lambda: answers(port) or server.poll() is not None)
            assert server.poll() is None, (second / "log.txt").read_text()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=20) as response:
                assert json.load(response)["bento"] == packaged.tag
        finally:
            server.terminate()
    fetched = bento_path(packaged.tag)
    assert {path: value for path, value in file_sums(fetched).items() if "__pycache__" not in path} == sums
    assert registry.ledger.lines() == history
    assert len(registry.versions()) == 1

    flip_byte(fetched / "src/data/serving/model.onnx")
    again = subprocess.run(
        [sys.executable, "-m", "flows.cli", "fetch"], cwd=second, env=variables, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert f"{packaged.tag} is in {fetched}" in again.stdout
    assert file_sums(fetched)["src/data/serving/model.onnx"] == sums["src/data/serving/model.onnx"]


def answers(port: int) -> bool:
    """Whether the service is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
