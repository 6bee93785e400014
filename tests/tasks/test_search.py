from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands.params_changes import change_params
from potstill.artifacts import MANIFEST, read_json, sha256_file, verify
from potstill.config.params import Params
from potstill.config.params_file import load_params, parse_distill
from potstill.errors import ModelError, ParamsError, TrainingError
from potstill.inference.runtime import Student
from potstill.paths import STUDIES
from potstill.studies.outcome import SearchOutcome
from tasks import distill
from tasks.search import search
from tasks.stage import Stage
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

QUICK = {"epochs": 1, "batch_tokens": 256, "average_decay": None}
SPACE: dict[str, Any] = {
    "trials": 3,
    "pruner": "none",
    "evaluations_per_epoch": 2,
    "layers": [[0, 2], [1]],
    "static": {"dimensions": [8], "epochs": 2, "learning_rate": 0.01, "batch_tokens": 512},
}
NO_STATIC = SPACE["static"] | {"dimensions": []}
EASY = {
    "min_accuracy": 0.1, "min_macro_f1": None, "min_teacher_ratio": None, "max_ece": None, "min_speedup": None,
    "min_advantage": None, "max_file_mb": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def taught(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace up to its signals."""
    folder = make_workspace(
        tmp_path_factory.mktemp("search") / "w", tiny_rows, tiny_base,
        teacher=QUICK, distill=QUICK | {"layers": [0, 2]}, finetune=QUICK | {"lora": {"rank": 2}}, search=SPACE,
        gate=EASY,
        evaluate={"latency_texts": 10, "throughput_texts": 40, "rounds": 1}, project={"precision": "fp32"},
        export={"int8_min_agreement": 0.5, "int8_max_accuracy_drop": 0.5},
    )  # fmt: skip
    stages = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "general")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages(*stages, monkeypatch=monkeypatch, folder=folder)
    return folder


@pytest.fixture(scope="module")
def searched(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchOutcome]:
    """A workspace and what a search found in it."""
    folder = Path(shutil.copytree(taught, tmp_path_factory.mktemp("searched") / "w"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        (folder / "data/prepared/test.parquet").unlink()  # never opened: it is not even there
        (folder / "data/tokens/test.arrow").unlink()
        _write_manifests(folder)
        return folder, search(_params())


def _write_manifests(folder: Path) -> None:
    from potstill.artifacts import write_manifest

    for name in ("prepared", "tokens"):
        about = read_json(folder / "data" / name / MANIFEST)["about"]
        write_manifest(folder / "data" / name, about)


@pytest.fixture
def workspace(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(taught, tmp_path / "w"))
    monkeypatch.chdir(folder)
    return folder


def _params(*, quantized: bool | str = "auto", **changed: Any) -> Params:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["quantize"]["teacher"] = quantized  # an export of seconds
    for key, value in changed.items():
        raw["search"][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return load_params(Path("params.yaml"))


@pytest.mark.slow
def test_every_point_is_measured_and_the_curve_is_drawn(searched: tuple[Path, SearchOutcome]) -> None:
    folder, found = searched
    assert [trial.state for trial in found.trials] == ["complete"] * 3
    names = [point.name for point in found.points]
    sizes = {len(trial.choice.layers) for trial in found.trials}
    titles = [{1: "1 layer", 2: "2 layers"}[size] for size in sorted(sizes, reverse=True)]
    assert names == ["teacher", "teacher INT8", "TF-IDF", *titles, "static, 8 dimensions"]
    for point in found.points:
        assert 0 <= point.score <= 1
        assert 0 < point.milliseconds < point.numbers["p99_ms"] + 1e-9
    assert found.front
    facts = read_json(folder / "reports/search/facts.json")
    assert facts["cheapest"] == (found.cheapest.name if found.cheapest else None)
    assert [one["score"] for one in facts["trials"]] == [trial.score for trial in found.trials]
    assert (folder / "reports/search/pareto.svg").read_text().startswith("<svg")
    assert (folder / "reports/search/pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "reports/search/index.html").read_text()
    assert "static, 8 dimensions" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("general", {"layers": [0, 2]}, r"general\.layers is for \[0, 2\]; set search\.layers to those, or"),
        ("distill", {"mutual": {"students": [[0, 2], [1]]}}, r"distill\.mutual is for \[0, 2\] or \[1\]; set"),
    ],
)
def test_layers_that_another_setting_rules_out_are_refused(
    section: str, value: dict[str, Any], words: str, workspace: Path
) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw[section] |= value
    raw["search"]["layers"] = [[0, 2], [3]]
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ParamsError, match=rf"tries layers \[3\], but {words}"):
        search(load_params(Path("params.yaml")))


def test_the_cheapest_is_a_serving_folder(searched: tuple[Path, SearchOutcome]) -> None:
    folder, found = searched
    best = found.cheapest
    assert best is not None
    assert all(
        best.milliseconds <= one.milliseconds for one in found.points if one.verdict is not None and one.verdict.passed
    )
    assert Student(folder / "reports/search/cheapest").predict(["a superb and witty movie"])[0].label in {
        "negative", "positive",
    }  # fmt: skip
    made = yaml.safe_load((folder / "reports/search/cheapest.yaml").read_text(encoding="utf-8"))
    assert parse_distill(made["distill"]).student.kind == best.kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layers", "static"])
def test_the_params_of_a_point_make_the_very_same_student(
    kind: str, searched: tuple[Path, SearchOutcome], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, found = searched
    point = next(one for one in found.points if one.kind == kind)
    lines = [line.removeprefix("--set '").removesuffix("'") for line in point.run_arguments]
    change_params(Path("params.yaml"), None, lines)
    for name in ("distill", "finetune", "export"):
        run_stage(name)
    assert point.folder is not None
    theirs = sha256_file(there / point.folder / MANIFEST)
    assert sha256_file(workspace / "data/serving" / MANIFEST) == theirs


@pytest.mark.slow
def test_a_search_that_is_done_trains_nothing_and_more_trials_go_on(
    searched: tuple[Path, SearchOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(searched[0], tmp_path / "w"))
    monkeypatch.chdir(folder)
    trained = _counted(monkeypatch)
    again = search(_params())
    assert trained == []
    assert [trial.score for trial in again.trials] == [trial.score for trial in searched[1].trials]
    more = search(_params(trials=4))
    assert len(more.trials) == 4
    assert more.trials[:3] == again.trials
    assert len(trained) <= 1  # none where the fourth is one of the three again


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    trained: list[str] = []

    def run(stage: Stage, run: Any = distill.run) -> Any:
        trained.append(stage.key)
        return run(stage)

    monkeypatch.setattr(distill, "run", run)
    return trained


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_failed_one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing: list[str] = []

    def run(stage: Stage, run: Any = distill.run) -> Any:
        if not failing:
            failing.append(stage.name)
            raise TrainingError("the kl loss became nan")
        return run(stage)

    monkeypatch.setattr(distill, "run", run)
    found = search(_params(trials=2, static=NO_STATIC, quantized=False))
    assert [trial.state for trial in found.trials] == ["failed", "complete"]
    assert found.trials[0].score is None
    assert read_json(Path("reports/search/facts.json"))["trials"][0]["score"] is None


@pytest.mark.slow
def test_folds_hold_out_every_row_of_train_once(workspace: Path) -> None:
    found = search(_params(trials=1, folds=2, sampler="grid", layers=[[0]], static=NO_STATIC, quantized=False))
    assert found.trials[0].state == "complete"
    folders = sorted((STUDIES / "folds").iterdir())
    assert len(folders) == 2
    for folder in folders:
        verify(folder)
    facts = json.loads(Path("reports/search/facts.json").read_text())
    assert facts["judged_on"] == "2 folds of train"
    assert [point.name for point in found.points] == ["teacher", "TF-IDF", "1 layer"]


def test_layers_that_the_teacher_lacks_are_refused_before_anything_is_trained(workspace: Path) -> None:
    with pytest.raises(ModelError, match="7"):
        search(_params(layers=[[0, 7]]))
