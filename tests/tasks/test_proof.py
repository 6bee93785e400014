from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from potstill.artifacts import MANIFEST, file_sums, verify
from potstill.config.params_file import load_params
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ChecksumError
from potstill.evaluation.teacher_gain import Seed, read_seeds
from potstill.models.loading import load_classifier
from potstill.paths import CHECKPOINTS
from tasks import control, finetune
from tasks.identity import sections_of
from tasks.learning import open_tokens
from tasks.stage import Stage, load_stage
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

QUICK = {"epochs": 1, "batch_tokens": 256}


@pytest.fixture(scope="module")
def taught(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace up to its signals, with two seeds to prove by."""
    folder = make_workspace(
        tmp_path_factory.mktemp("proof") / "w", tiny_rows, tiny_base,
        teacher=QUICK, distill=QUICK | {"layers": [0, 2]}, finetune=QUICK, control=QUICK,
        proof={"seeds": 2}, project={"precision": "fp32"},
    )  # fmt: skip
    stages = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "general")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages(*stages, monkeypatch=monkeypatch, folder=folder)
    return folder


@pytest.fixture
def workspace(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(taught, tmp_path / "w"))
    monkeypatch.chdir(folder)
    return folder


def _set_seed(seed: int) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["project"]["seed"] = seed
    Path("params.yaml").write_text(yaml.safe_dump(params))


def _seeds() -> list[Seed]:
    return read_seeds(Path("data/proof"), open_tokens(_stage()).split("test").labels)


def _stage() -> Stage:
    return load_stage("proof", load_params(Path("params.yaml")))


@pytest.mark.slow
def test_a_further_seed_is_what_the_stages_make_with_that_seed(workspace: Path) -> None:
    run_stage("proof")
    assert not (workspace / "data/student").exists()
    assert not list(CHECKPOINTS.glob("distill-*"))
    (found,) = _seeds()
    assert found.seed == 18
    _set_seed(18)
    for name in ("distill", "finetune", "control"):
        run_stage(name)
    test = open_tokens(_stage()).split("test")
    for out, name in {"student": "student", "control": "pretrained", "initialised": "initialised"}.items():
        model = load_classifier(workspace / "data" / out)
        np.testing.assert_array_equal(found.answers[name].logits, predict_logits(model, test))
    logits = [answers.logits for answers in found.answers.values()]
    assert not any(np.array_equal(logits[one], logits[one - 1]) for one in range(3))


@pytest.mark.slow
def test_an_interrupted_proof_trains_nothing_twice(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def interrupt(stage: Stage) -> None:
        raise KeyboardInterrupt

    def counted(stage: Stage, run: object = finetune.run) -> object:
        trained.append("finetune")
        return run(stage)  # type: ignore[operator]

    monkeypatch.setattr(finetune, "run", counted)
    with monkeypatch.context() as context:
        context.setattr(control, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_stage("proof")
    assert not (workspace / "data/proof").exists()
    run_stage("proof")
    assert trained == ["finetune"]
    run_stage("proof")  # its answers are kept until the stage has ended
    assert trained == ["finetune"]
    before = file_sums(workspace / "data/proof")
    shutil.rmtree(CHECKPOINTS)
    run_stage("proof")
    assert file_sums(workspace / "data/proof") == before


def test_one_seed_trains_nothing_and_imports_nothing_that_costs(workspace: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["proof"]["seeds"] = 1
    Path("params.yaml").write_text(yaml.safe_dump(params))
    code = (
        "import sys; from tests.tasks.data_workspace import run_stage; run_stage('proof'); "
        "print([name for name in ('torch', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert verify(workspace / "data/proof") == {"seeds": []}
    assert [path.name for path in (workspace / "data/proof").iterdir()] == [MANIFEST]
    assert _seeds() == []


@pytest.mark.slow
def test_answers_to_other_rows_are_refused(workspace: Path) -> None:
    run_stage("proof")
    with pytest.raises(ChecksumError, match="other test rows"):
        read_seeds(Path("data/proof"), open_tokens(_stage()).split("test").labels[:-1])


def test_it_depends_on_all_that_it_runs_again() -> None:
    stages = yaml.safe_load((Path(__file__).resolve().parents[2] / "dvc.yaml").read_text())["stages"]
    seeded = [stages[name] for name in ("distill", "finetune", "control")]
    seeded_outs = {out for stage in seeded for out in stage["outs"]}
    assert {dep for stage in seeded for dep in stage["deps"]} - seeded_outs <= set(stages["proof"]["deps"])
    sections = {section for stage in seeded for section in sections_of(stage)}
    assert sections <= set(sections_of(stages["proof"]))
