from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from potstill.artifacts import read_json
from potstill.data.tokens.token_folder import TokenFolder
from potstill.models.loading import load_classifier
from potstill.models.students.student import student_from_layers
from potstill.paths import CHECKPOINTS
from tasks import control
from tasks.stage import Stage
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

pytestmark = pytest.mark.slow

PLAN = {"layers": [0, 2], "batch_tokens": 256}
# So low that the weights stay as they started.
FROZEN = {"learning_rate": 1e-12, "epochs": 1, "average_decay": None, "batch_tokens": 256}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace up to its teacher."""
    folder = make_workspace(
        tmp_path_factory.mktemp("control") / "w", tiny_rows, tiny_base,
        distill=PLAN, control=FROZEN, teacher={"epochs": 1}, project={"precision": "fp32"},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages("ingest", "prepare", "validate", "tokenize", "teacher", monkeypatch=monkeypatch, folder=folder)
    return folder


@pytest.fixture
def workspace(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(taught, tmp_path / "w"))
    monkeypatch.chdir(folder)
    return folder


def test_one_starts_from_the_base_and_the_other_from_the_teacher(workspace: Path) -> None:
    result = run_stage("control")
    assert {"dev_accuracy", "initialised_dev_accuracy"} <= set(result.metrics)
    assert {"loss", "initialised_loss"} <= {name for _, name, _ in result.history}
    torch.manual_seed(17)
    base = load_classifier(workspace / "data/base", ["negative", "positive"])
    starts = {"control": base, "initialised": load_classifier(workspace / "data/teacher")}
    for name, source in starts.items():
        found = load_file(workspace / "data" / name / "model.safetensors")
        for key, value in student_from_layers(source, [0, 2]).state_dict().items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0)
        assert 0.05 <= read_json(workspace / "data" / name / "calibration.json")["temperature"] <= 20


def test_an_interruption_in_the_second_leaves_the_first(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    parent = control._parent

    def interrupt(stage: Stage, tokens: TokenFolder, name: str) -> Any:
        begun.append(name)
        if name == "initialised" and begun.count(name) == 1:
            raise KeyboardInterrupt
        return parent(stage, tokens, name)

    monkeypatch.setattr(control, "_parent", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_stage("control")
    assert not (workspace / "data/control").exists()

    resumed = run_stage("control")
    assert begun == ["control", "initialised", "initialised"]
    shutil.rmtree(CHECKPOINTS)
    manifests = [workspace / "data" / name / "manifest.json" for name in ("control", "initialised")]
    after_resuming = [path.read_bytes() for path in manifests]
    assert run_stage("control").history == resumed.history
    assert [path.read_bytes() for path in manifests] == after_resuming
