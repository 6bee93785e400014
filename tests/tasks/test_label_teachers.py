"""Teachers of different labels of one multi_label task, through the stages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from potstill.artifacts import read_json
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import LabelCountError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier, save_model
from potstill.pretrained.inspection import read_tokenizer
from potstill.pretrained.members import read_members
from tests.conftest import BAD, GOOD, NEUTRAL
from tests.marked import write_jsonl
from tests.tasks.data_workspace import make_workspace, run_stages
from tests.teachers import teach

LABELS = ["good", "bad", "long"]
PLAN = {"epochs": 4, "learning_rate": 5e-3, "batch_tokens": 256, "average_decay": 0.9}
STAGES = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "distill", "finetune", "control")


def rows(count: int) -> list[dict[str, Any]]:
    generator, found = random.Random(5), []
    for _ in range(count):
        words = generator.choices(NEUTRAL, k=generator.choice([3, 8]))
        marks = {"good": generator.random() < 0.5, "bad": generator.random() < 0.4, "long": len(words) > 5}
        words += ["about"] * marks["long"]  # so that few steps teach it
        words += [generator.choice(GOOD)] * marks["good"] + [generator.choice(BAD)] * marks["bad"]
        generator.shuffle(words)
        found.append({"text": " ".join(words)} | {label: int(holds) for label, holds in marks.items()})
    return found


def workspace(folder: Path, base: Path, other: Path, first: list[str] | None, second: list[str] | None) -> Path:
    return make_workspace(
        folder / "w", write_jsonl(folder / "rows.jsonl", rows(300)), base,
        project={"precision": "fp32", "device": "cpu"},
        ingest={"teachers": {"other": {"kind": "file", "path": str(other)}}},
        prepare={"task": "multi_label", "label": {"kind": "columns", "columns": LABELS}, "labels": None,
                 "augment": None},
        validate={"min_rows": {"train": 50, "dev": 5, "test": 10, "transfer": 0}},
        teacher=PLAN | {"labels": first, "members": {"other": {"fine_tuned": True, "weight": 3.0, "labels": second}}},
        # Looked at once, at its end: gold labels do not choose among weights.
        distill={"epochs": 6, "learning_rate": 0.005, "batch_tokens": 64, "average_decay": None, "layers": [0, 2],
                 "alpha": 1.0, "evaluations_per_epoch": 1},
        finetune=PLAN | {"epochs": 1}, control=PLAN | {"epochs": 1},
        gate={"min_accuracy": None, "min_macro_f1": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def other(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of two of the labels, in an order and a spelling of its own."""
    torch.manual_seed(4)
    model, folder = load_classifier(tiny_base, ["Long", "bad"], "multi_label"), tmp_path_factory.mktemp("other")
    known, tokenizer = rows(300), read_tokenizer(tiny_base)
    gold = torch.tensor([[float(row["long"]), float(row["bad"])] for row in known])
    teach(model, tokenizer, [row["text"] for row in known], gold, steps=60, loss=cross_entropy_of_each)
    save_model(model, folder, tiny_base)
    return folder


def cross_entropy_of_each(logits: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, gold)


def split(folder: Path, name: str) -> TokenDataset:
    return TokenDataset.open(folder / f"data/tokens/{name}.arrow", 0)


@pytest.mark.slow
def test_each_label_is_learnt_from_the_teachers_that_answer_it(
    tmp_path: Path, tiny_base: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace(tmp_path, tiny_base, other, ["good", "bad"], ["bad", "long"])
    run_stages(*STAGES, monkeypatch=monkeypatch, folder=folder)
    output = capsys.readouterr().out
    assert "teacher: seed 17, 1 of 2, good 1, bad 0.25" in output
    assert "teacher: other, 2 of 2, bad 0.75, long 1" in output
    first, second = read_members(folder / "data/teacher")
    assert (first.weight, second.weight) == ((1.0, 0.25, 0.0), (0.0, 0.75, 1.0))
    dev = split(folder, "dev")
    mine, theirs = (predict_logits(load_classifier(member.folder), dev) for member in (first, second))
    assert (mine[:, 2] == 0).all()  # an output that nobody trained
    assert (theirs[:, 0] == 0).all()
    assert ((theirs[:, 2] > 0) == dev.labels[:, 2]).mean() > 0.9  # its first label is our third
    # What the student learnt: its own labels from each, of the shared one the mean of their probabilities.
    train = split(folder, "train")
    stored = StoredSignals.open(folder / "data/signals", train, folder / "data/teacher")
    assert stored(train.batch(np.arange(4))).logits.shape == (4, 2, 3)
    student = load_classifier(folder / "data/distilled")
    assert [student.config.id2label[index] for index in range(3)] == LABELS
    found, one, two = (1 / (1 + np.exp(-logits)) for logits in (predict_logits(student, dev), mine, theirs))
    expected = np.stack([one[:, 0], 0.25 * one[:, 1] + 0.75 * two[:, 1], two[:, 2]], axis=1)
    assert np.abs(found - expected).mean() < 0.12
    summary = read_json(folder / "data/teacher/manifest.json")["about"]
    assert summary[KINDS["multi_label"].scoring.dev_key] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["good"], ["bad", "fine"], r"teacher\.members\.other\.labels names 'fine', the data has good, bad, long"),
        (["bad"], ["bad", "long"], "none of the 2 teachers answers the label 'good'; name it in teacher.labels or"),
        (["good", "long"], ["bad"], "has 2 labels .Long, bad., the data has 1 .bad."),
        (["good"], None, "has 2 labels .Long, bad., the data has 3"),
    ],
)
def test_labels_that_do_not_come_together_are_refused_before_anything_is_trained(
    first: list[str], second: list[str] | None, message: str,
    tmp_path: Path, tiny_base: Path, other: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = workspace(tmp_path, tiny_base, other, first, second)
    with pytest.raises(LabelCountError, match=message):
        run_stages(*STAGES[:5], monkeypatch=monkeypatch, folder=folder)


def test_labels_of_a_teacher_are_of_a_task_of_several(tmp_path: Path, tiny_base: Path, other: Path) -> None:
    from potstill.config.params_file import load_params
    from potstill.errors import ParamsError

    folder = workspace(tmp_path, tiny_base, other, None, ["bad", "long"])
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["prepare"] |= {"task": "single_label", "label": {"kind": "column", "column": "good"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"teacher\.members\.other\.labels is for multi_label tasks, but prepare"):
        load_params(folder / "params.yaml")
