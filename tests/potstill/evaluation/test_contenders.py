"""The teacher as people run it, whatever its family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from potstill.evaluation.contenders import teacher_pipeline
from tests.potstill.models.tiny import make

TEXTS = [("the house", "a superb story about the river"), ("the garden", "a dull city")]


@pytest.mark.parametrize(
    ("head", "task", "labels"),
    [("ForQuestionAnswering", "question_answering", 2), ("ForSequenceClassification", "single_label", 3)],
)
@pytest.mark.parametrize("kind", ["roberta", "distilbert", "bert"])
def test_a_class_without_token_types_is_given_none(
    kind: str, head: str, task: Any, labels: int, tiny_base: Path, tmp_path: Path
) -> None:
    make(kind, head, vocab_size=300, num_labels=labels).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # of a tokenizer that numbers the texts of a pair
        shutil.copyfile(tiny_base / name, tmp_path / name)
    ask = teacher_pipeline(tmp_path, 30, task, stride=4)
    assert len(ask(TEXTS)) == 2  # type: ignore[arg-type]
    ask(TEXTS[:1])
