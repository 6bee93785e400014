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
from potstill.compute.processes import free_port
from potstill.config.params_file import load_params
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.version_artifacts import SERVING
from potstill.serving.launch import bento_path
from tasks.package import package
from tests.flows.conftest import REPOSITORY, until
from tests.potstill.serving.folders import flip_byte, write_workspace
from tests.registries import PROJECT, new_store, register_bento

pytestmark = pytest.mark.slow


def test_the_champion_is_served_from_a_second_clone_without_a_promotion(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_store(write_workspace(tiny_base, tmp_path / "first", ["good film", "bad film"]))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "first-bentos"))
    packaged = package(load_params(first / "params.yaml"), first)
    registry = Registry(first, PROJECT)
    model = tmp_path / "model"
    shutil.copytree(packaged.path / "src" / SERVING, model / SERVING)
    version = register_bento(registry, packaged.path, model, packaged.tag)
    registry.promote(version.version, expected=None)
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
