from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.artifacts import MANIFEST, sha256_file
from potstill.data.tokens.marking import UNIT_LABELS
from potstill.evaluation.gold_spans import read_tags
from potstill.evaluation.reference import gold_entities, reference_profile, right_shares
from potstill.inference.profile import answer_all
from potstill.inference.runtime import Prediction, Student, Text
from potstill.kinds.definitions.token_classification import Entity, Tagging
from potstill.labels.tags import units_of
from tests.conftest import generate_rows
from tests.potstill.serving.folders import LABELS, TAGS, write_serving, write_span_model

TEXTS: list[Text] = [text for text, _ in generate_rows(30)]


def prediction(label: object, *probabilities: float) -> Prediction:
    return Prediction(label, list(probabilities), [0.0], 3, False)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_profile_is_of_what_the_served_model_says(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    student = Student(folder, 1)
    answers = answer_all(student, TEXTS)
    gold = np.array([at % 2 for at in range(len(TEXTS))])
    profile = reference_profile(student, TEXTS, answers, gold, sha256_file(folder / MANIFEST))
    assert (profile.task, profile.texts) == ("single_label", 30)
    said = [answer.label for answer in answers]
    assert profile.features["label"].bins[0].counts == [said.count(label) for label in LABELS]
    assert profile.confidence is not None
    assert profile.confidence.mean == pytest.approx(np.mean([max(answer.probabilities) for answer in answers]))
    assert profile.right is not None
    assert profile.right.share.mean == np.mean([label == LABELS[at] for label, at in zip(said, gold, strict=True)])
    assert profile.vocabulary.unknown == student.tokenizer.token_to_id("[UNK]")


def test_how_much_of_an_answer_is_right() -> None:
    single = right_shares([prediction("b", 0.1, 0.9), prediction("a", 0.8, 0.2)], np.array([1, 1]), ["a", "b"])
    assert single is not None
    assert single.tolist() == [1, 0]
    flags = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.float32)
    several = right_shares([prediction(["a"], 0.9, 0.1, 0.1), prediction([], 0, 0, 0)], flags, ["a", "b", "c"])
    assert several is not None
    assert several.tolist() == [pytest.approx(2 / 3), 1]
    assert right_shares([prediction(1.5)], np.array([1.0], dtype=np.float32), ["score"]) is None


@pytest.mark.slow
def test_entities_that_are_found_are_compared_with_gold_ones(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_span_model(tiny_base, tmp_path / "serving", "token_classification")
    student = Student(folder, 1)
    texts: list[Text] = ["the doctor and the village", "a village story", "the train"]
    marks = [[("LOC", 19, 26)], [("LOC", 2, 9)], []]
    path = tmp_path / "test.parquet"
    labels = [
        [[*unit, int(any(start <= unit.start < end for _, start, end in row))] for unit in units_of(str(text))]
        for text, row in zip(texts, marks, strict=True)
    ]
    pq.write_table(pa.table({"text": texts, "label": pa.array(labels, UNIT_LABELS)}), path)
    gold = read_tags(path, student.text_windows, TAGS)
    assert gold_entities(gold) == [set(row) for row in marks]
    found = [
        Tagging([Entity("LOC", 19, 26, "village", 0.9), Entity("LOC", 4, 10, "doctor", 0.5)], 1, 0.9),
        Tagging([Entity("LOC", 2, 15, "village story", 0.9)], 1, 0.9),
        Tagging([], 1, 0.9),
    ]
    right = right_shares(found, gold, TAGS)
    assert right is not None
    assert right[:2].tolist() == [0.5, 0]
    assert np.isnan(right[2])
    profile = reference_profile(student, texts, answer_all(student, texts), gold, "c" * 64)
    assert sum(profile.features["entities"].bins[0].counts) == 3
