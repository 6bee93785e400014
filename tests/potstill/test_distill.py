from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.distill import distill
from potstill.errors import PotstillError
from potstill.models.loading import load_classifier, save_model
from tests.conftest import generate_rows

ROWS = generate_rows(120)
TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]
QUICK: dict[str, Any] = {"epochs": 1, "max_length": 32, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def teacher(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("teacher")
    save_model(load_classifier(tiny_base, ["negative", "positive"]), folder, tiny_base)
    return folder


def test_a_folder_and_texts_give_a_student_that_pipeline_loads(tmp_path: Path, teacher: Path) -> None:
    from transformers import pipeline

    found = distill(teacher, TEXTS, LABELS, layers=[0, 2], transfer=["one more"], **QUICK)
    assert found.student.config.num_hidden_layers == 2
    assert found.report["rows"] == 109
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl", "accuracy", "teacher_accuracy"}
    found.save_pretrained(tmp_path)
    assert pipeline("text-classification", model=str(tmp_path))("superb")[0]["label"] in {"negative", "positive"}


def test_a_loaded_teacher_of_pairs_without_labels_with_terms(teacher: Path) -> None:
    from transformers import AutoTokenizer

    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    model = load_classifier(teacher)
    terms = [{"kind": "relations", "heads": 4}, {"kind": "hidden", "layers": [[1, 1]]}]
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    found = distill(model, pairs, tokenizer=tokenizer, dev=(pairs[:8], None), terms=terms, accumulate=2, **QUICK)
    assert found.student.config.num_hidden_layers == 2
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl"}


def test_the_same_seed_gives_the_same_student(teacher: Path) -> None:
    one, two = (distill(teacher, TEXTS, LABELS, **QUICK).student.state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:3]}, "texts has 120 texts and 3 labels"),
        ({"labels": ["maybe"] * 120}, "does not know the label 'maybe' of texts; it knows negative, positive"),
        ({"labels": [2] * 120}, "does not know the label 2 of texts"),
        ({"texts": "a text"}, "texts is one string; give a list of texts"),
        ({"texts": ["a text", None], "labels": None}, r"texts\[1\] is None; it has to be a string"),
        ({"texts": [("a", "b"), "c"], "labels": None}, r"texts\[1\] is 'c'; it has to be a pair of strings"),
        ({"texts": [], "labels": []}, "texts has 0 texts"),
        ({"layers": [0, 7]}, "names layer 7, but the teacher in .* has 4 layers"),
        ({"temprature": 4.0}, "unknown key 'distill.temprature'; did you mean 'temperature'"),
        ({"terms": [{"kind": "hidden", "layers": [[9, 1]]}]}, "hidden names layer 9 of the student"),
        ({"max_length": 512}, "max_length is 512; set it from 3 to the teacher's 64 positions"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(
    teacher: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.loop.train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(PotstillError, match=message):
        distill(**({"teacher": teacher, "texts": TEXTS, "labels": LABELS} | QUICK | changes))


def test_a_teacher_without_a_head_or_a_tokenizer(tiny_base: Path, teacher: Path) -> None:
    with pytest.raises(PotstillError, match="give a fine-tuned sequence classifier"):
        distill(tiny_base, TEXTS)
    with pytest.raises(PotstillError, match="give its tokenizer too"):
        distill(load_classifier(teacher), TEXTS)
