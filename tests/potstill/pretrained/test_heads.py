from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import LabelCountError
from potstill.models.loading import check_labels, load_classifier, save_model
from potstill.pretrained.heads import task_named, task_of

SEQUENCE = "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("architecture", "problem_type", "labels", "task"),
    [
        (SEQUENCE, None, 2, "single_label"),
        (SEQUENCE, "single_label_classification", 3, "single_label"),
        (SEQUENCE, "multi_label_classification", 3, "multi_label"),
        (SEQUENCE, "regression", 1, "regression"),
        (SEQUENCE, None, 1, "regression"),
        ("BertModel", None, 2, None),
        ("", None, 2, None),
    ],
)
def test_a_saved_model_says_its_task(architecture: str, problem_type: str | None, labels: int, task: str) -> None:
    assert task_named(architecture, problem_type, labels) == task


@pytest.mark.parametrize(("task", "labels"), [("multi_label", ["a", "b"]), ("regression", ["score"])])
def test_a_new_head_is_saved_and_loaded_as_its_task(
    task: str, labels: list[str], tiny_base: Path, tmp_path: Path
) -> None:
    save_model(load_classifier(tiny_base, labels, task), tmp_path / "model", tiny_base)  # type: ignore[arg-type]
    model = load_classifier(tmp_path / "model")
    assert task_of(model) == task
    assert list(model.config.id2label.values()) == labels
    assert check_labels(tmp_path / "model", labels, task) == list(range(len(labels)))  # type: ignore[arg-type]


def test_a_single_label_head_has_the_config_it_always_had(tiny_base: Path) -> None:
    model = load_classifier(tiny_base, ["no", "yes"])
    assert model.config.problem_type is None
    assert task_of(model) == "single_label"


def test_a_teacher_of_another_task_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    save_model(load_classifier(tiny_base, ["a", "b"], "multi_label"), tmp_path / "model", tiny_base)
    with pytest.raises(LabelCountError, match=r"was fine-tuned for multi_label .* the data is for single_label"):
        check_labels(tmp_path / "model", ["a", "b"])
    with pytest.raises(LabelCountError, match="not a fine-tuned sequence classifier"):
        check_labels(tiny_base, ["score"], "regression")
