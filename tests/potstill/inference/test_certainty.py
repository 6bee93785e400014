from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.artifacts import write_json
from potstill.errors import ModelError
from potstill.evaluation.abstention import confidence_and_right
from potstill.evaluation.gold_spans import GoldTags, tag_logits
from potstill.evaluation.summary import Answers
from potstill.inference.certainty import answer_confidence, read_threshold
from potstill.inference.runtime import Prediction, Student
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.offsets import unit_states
from potstill.labels.tags import units_of
from tests.potstill.serving.folders import TAGS, write_span_model


@pytest.mark.parametrize(("task", "gold"), [("single_label", [0, 1, 2]), ("multi_label", np.zeros((3, 3), np.int64))])
def test_the_served_confidence_is_the_evaluated_one(task: TaskKind, gold: Any) -> None:
    logits = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [-1.0, -2.0, -3.0]], dtype=np.float32)
    kind, labels = KINDS[task], ["a", "b", "c"]
    served = [
        Prediction(label, row, values, 3, False)
        for label, row, values in zip(
            kind.answers(logits, labels), kind.probabilities(logits, 1.7).tolist(), logits.tolist(), strict=True
        )
    ]
    evaluated, _ = confidence_and_right(np.array(gold), Answers(logits, 1.7, 10, 10, task))
    assert [answer_confidence(answer) for answer in served] == pytest.approx(evaluated.tolist())


def test_the_served_confidence_of_a_text_with_entities_is_the_evaluated_one(tiny_base: Path, tmp_path: Path) -> None:
    student = Student(write_span_model(tiny_base, tmp_path / "serving", "token_classification"), 1)
    texts = ["a good film", "", "bad " * 30]  # the last is read in windows
    units = [units_of(text) for text in texts]
    states = [unit_states(window.tokens) for row in student.text_windows(texts, units) for window in row]
    gold = GoldTags(texts, units, np.zeros(sum(map(len, units)), np.int64), np.concatenate(states), TAGS)
    answers = Answers(tag_logits(student, texts, units), student.card.temperature, 10, 10, "token_classification")
    evaluated, _ = confidence_and_right(gold, answers)
    assert [answer_confidence(tagging) for tagging in student.tag(texts)] == pytest.approx(evaluated.tolist())


def test_numbers_have_no_confidence() -> None:
    with pytest.raises(ValueError, match="no confidence"):
        answer_confidence(Prediction(2.5, [], [2.5], 3, False))


METRICS: dict[str, Any] = {"serving_sha256": "me", "abstention": {"threshold": {"confidence": 0.8}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ([], "cannot be read"),
        ({**METRICS, "serving_sha256": "another"}, "is about another model"),
        ({**METRICS, "abstention": {"threshold": None}}, "has none that is proven; label more rows of dev"),
        ({"serving_sha256": "me"}, "has none that is proven"),
    ],
)
def test_a_missing_threshold_is_said(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        write_json(path, content)
    with pytest.raises(ModelError, match=message) as caught:
        read_threshold(path, "me")
    assert "\n" not in str(caught.value)


def test_the_threshold_of_the_evaluation_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", METRICS)
    assert read_threshold(tmp_path / "metrics.json", "me") == 0.8
