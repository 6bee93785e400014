from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.check_stores import check_stores
from flows.commands.collect_garbage import collect
from potstill.artifacts import file_sums, write_text
from potstill.config.params_file import load_params
from potstill.errors import RegistryError
from potstill.paths import CHECKPOINTS
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.retention import divide
from potstill.registry.versions import MODEL_ID
from potstill.serving.launch import bento_path
from tasks.garbage import find_garbage, folder_bytes
from tests.conftest import REPOSITORY
from tests.registries import PROJECT, add_version, new_store

pytestmark = pytest.mark.slow

# So that no line of the ledger is young enough to protect a version.
NONE_RECENT = -1.0


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Versions 1 to 4, each with its Bento and a window: 4 is champion, 3 was it before."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentos"))
    registry = Registry(new_store(tmp_path / "workspace"), PROJECT)
    shutil.copyfile(REPOSITORY / "params.yaml", registry.workspace / "params.yaml")
    for number, content in enumerate(("one", "two", "three", "four"), start=1):
        version = add_version(registry, content, bento=f"potstill-{PROJECT}:{number}")
        registry.fetch_bento(version, bento_path(f"potstill-{PROJECT}:{number}"))
        write_text(registry.workspace / "watch" / version.candidate[:12] / "1.counts.json", "{}")
    registry.approve("3")
    registry.approve("4")
    return registry


def bentos() -> list[str]:
    return sorted(path.name for path in bento_path(f"potstill-{PROJECT}:1").parent.glob("*/"))


def test_old_versions_go_with_all_that_is_theirs(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = registry.workspace
    for name, age in (("distill-old", 1e6), ("distill-new", 0)):
        write_text(workspace / CHECKPOINTS / name / "step-1/state.json", "{}")
        for path in (workspace / CHECKPOINTS / name).rglob("*"):
            os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
        os.utime(workspace / CHECKPOINTS / name, (0, 0) if age else None)
    registry.fetch("1")
    experiment = tracking.experiment_id(workspace, PROJECT)
    upload = tracking.client(workspace).create_logged_model(experiment, name=PROJECT)
    tracking.client(workspace).log_model_artifacts(upload.model_id, str(workspace / CHECKPOINTS))
    run = tracking.start_parent(workspace, PROJECT, {}, [])
    going_on = tracking.client(workspace).create_logged_model(experiment, name=PROJECT, source_run_id=run)
    before = file_sums(workspace)
    collect(workspace, 1, NONE_RECENT + 2, remove=False)
    shown = capsys.readouterr().out
    assert "1 checkpoints: distill-old" in shown
    assert "versions in MLflow" not in shown  # the ledger's lines are of today
    collect(workspace, 1, NONE_RECENT, remove=False)
    shown = capsys.readouterr().out
    assert shown.splitlines()[:2] == ["keeps version 4        champion", "keeps version 3        previous"]
    assert "2 versions in MLflow: 1, 2" in shown
    assert "2 Bentos in BentoML's store: 1, 2" in shown
    assert "2 watch windows" in shown
    assert f"1 uploads without a version: {upload.model_id}" in shown
    assert "1 copies from the registry" in shown
    assert "nothing is removed yet; `potstill gc --yes` removes it" in shown
    assert {path: value for path, value in file_sums(workspace).items() if path in before} == before

    collect(workspace, 1, NONE_RECENT, remove=True)
    assert "removed 2 versions in MLflow" in capsys.readouterr().out
    assert [version.version for version in registry.versions()] == ["4", "3"]
    assert bentos() == ["3", "4"]
    assert len(list((workspace / "watch").iterdir())) == 2
    assert len(list((workspace / "mlartifacts" / PROJECT / "models").rglob("model.onnx"))) == 2
    models = [going_on.model_id, *(version.tags[MODEL_ID] for version in registry.versions())]
    assert [model.model_id for model in tracking.logged_models(workspace, PROJECT)] == models
    assert not list((workspace / "mlartifacts").rglob("state.json"))
    assert registry.history().removed == {"1", "2"}
    assert [finding.line for finding in check_stores(workspace) if finding.noted or not finding.ok] == []
    registry.verify(registry.get("champion"))
    collect(workspace, 1, NONE_RECENT, remove=False)
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to remove"
    assert registry.roll_back(None, "worse").version == "3"


def test_a_version_that_was_made_by_hand_is_kept_and_stops_nothing(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = registry.workspace
    (workspace / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=workspace, check=True)
    tracking.client(workspace).create_model_version(PROJECT, str(workspace))
    collect(workspace, 1, NONE_RECENT, remove=False)
    shown = capsys.readouterr().out
    assert "keeps version 5        among the newest" in shown
    assert "2 versions in MLflow: 1, 2" in shown


def test_what_another_clone_removes_at_the_same_time_is_no_error(registry: Registry) -> None:
    retention = divide(registry, 1, NONE_RECENT)
    params = load_params(registry.workspace / "params.yaml")
    kinds = list(find_garbage(params, registry, retention, NONE_RECENT))
    for _ in range(2):
        for kind in kinds:
            kind.remove()
    assert bentos() == ["3", "4"]
    removals = [line.facts["version"] for line in registry.ledger.lines() if line.action == "remove"]
    assert removals == ["1", "1", "2", "2"]  # begun and done, once
    assert folder_bytes([registry.workspace / "gone"]) == 0


def test_a_folder_without_a_registry_has_nothing_to_collect(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(RegistryError, match="has no champion yet"):
        collect(tmp_path, 5, 30, remove=True)
