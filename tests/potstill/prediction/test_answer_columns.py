from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from potstill.inference.runtime import ModelCard, Prediction
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.token_classification import Entity, Tagging
from potstill.prediction.answer_columns import AnswerColumns
from tests.potstill.serving.folders import card

LABELS: dict[str, Any] = {"labels": ["no", "yes"]}


def prediction(label: Any, *probabilities: float) -> Prediction:
    return Prediction(label, list(probabilities), [], 5, label == "no")


def columns(task: str, abstain_below: float | None = None, **changes: Any) -> AnswerColumns:
    content = card(task=task, embedding=False, **changes)
    return AnswerColumns(ModelCard.model_validate(content), "v", abstain_below, "m_")


@pytest.mark.parametrize(
    ("built", "answer", "expected"),
    [
        (
            columns("classification", 0.9, **LABELS),
            prediction("yes", 0.2, 0.8),
            {"label": "yes", "probabilities": {"no": 0.2, "yes": 0.8}, "abstained": True, "truncated": False},
        ),
        (
            columns("classification", labels=[-1, 1]),
            prediction(1, 0.2, 0.8),
            {"label": 1, "probabilities": {"-1": 0.2, "1": 0.8}, "truncated": False},
        ),
        (
            columns("classification", labels=[0, "other"]),
            prediction(0, 0.8, 0.2),
            {"label": "0", "probabilities": {"0": 0.8, "other": 0.2}, "truncated": False},
        ),
        (
            columns("multi_label", 0.5, **LABELS),
            prediction(["yes"], 0.1, 0.9),
            {"labels": ["yes"], "probabilities": {"no": 0.1, "yes": 0.9}, "abstained": False, "truncated": False},
        ),
        (columns("regression", labels=["score"]), prediction(2.5), {"score": 2.5, "truncated": False}),
        (
            columns("token_classification", 0.5, labels=["O", "B-LOC", "I-LOC"]),
            Tagging([Entity("LOC", 3, 8, "Paris", 0.9)], 2, 0.6),
            {
                "entities": [{"type": "LOC", "start": 3, "end": 8, "text": "Paris", "score": 0.9}],
                "abstained": False,
                "windows": 2,
            },
        ),
        (
            columns("question_answering", labels=["start", "end"], pair=True),
            Reply(None, 0, 0, 0.7, 1),
            {"answers": [{"answer": None, "start": 0, "end": 0, "score": 0.7}], "windows": 1},
        ),
    ],
)
def test_an_answer_has_the_columns_of_its_task(built: AnswerColumns, answer: Any, expected: dict[str, Any]) -> None:
    table = built.table([answer, answer])
    assert table.to_pylist() == [{f"m_{name}": value for name, value in {**expected, "version": "v"}.items()}] * 2
    assert built.table([]).schema.equals(table.schema)
    assert isinstance(table, pa.Table)
