"""Fixtures of the stages that follow DVC's: a toy workspace whose DVC stages have run, ready to be registered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.artifacts import sha256_file, write_json
from potstill.registry import tracking
from tests.flows import conftest as flows
from tests.registries import BENTO_TAG, new_store, write_bento


@pytest.fixture(scope="session")
def finished_toy(slow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy workspace whose DVC stages have run."""
    folder = tmp_path_factory.mktemp("finished") / "toy"
    flows.copy_toy(folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(flows.REPOSITORY),
        tracking.RECORDS: str(folder / "records"),
    }
    for command in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, env=variables, check=True)
    return folder


@pytest.fixture
def candidate(finished_toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of its own for a test, with an empty registry; it is the current folder."""
    folder = tmp_path / "toy"
    shutil.copytree(finished_toy, folder)
    monkeypatch.chdir(folder)
    bento = tmp_path / "bentoml"
    monkeypatch.setenv("BENTOML_HOME", str(bento))
    write_bento(bento / "bentos" / BENTO_TAG.replace(":", "/"), folder / "data/serving")
    verdict = {"serving_sha256": sha256_file(folder / "data/serving/manifest.json")}
    write_json(folder / "reports/gate.json", verdict)
    return new_store(folder)
