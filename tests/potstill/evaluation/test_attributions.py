from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.evaluation.attributions import attribute
from potstill.evaluation.summary import Answers
from potstill.inference.runtime import Student
from tests.potstill.serving.folders import write_serving


@pytest.mark.parametrize("pair", [False, True])
def test_a_words_weight_is_the_drop_without_it(tiny_base: Path, tmp_path: Path, pair: bool) -> None:
    student = Student(write_serving(tiny_base, tmp_path / "serving", pair=pair), 1)
    text = ("a superb film", "dull story") if pair else "a superb film, dull"
    (whole,) = student.predict([text])  # type: ignore[list-item]
    answers = Answers(np.array([whole.logits]), student.card.temperature, 1, 1)
    (found,) = attribute(student, [text], np.array([0]), answers, 4)  # type: ignore[list-item]
    assert found.gold == student.card.labels[0]
    parts = ["".join(word.text for word in part) for part in found.parts]
    assert parts == (["a superb film", "dull story"] if pair else ["a superb film, dull"])
    assert found.answer == whole.label
    assert found.score == max(whole.probabilities)
    without = ("a  film", "dull story") if pair else "a  film, dull"
    (other,) = student.predict([without])  # type: ignore[list-item]
    index = student.card.labels.index(found.answer)
    weights = {word.text: word.weight for word in found.parts[0]}
    assert weights["superb"] == pytest.approx(found.score - other.probabilities[index])
    assert weights[" "] == 0


def test_half_of_the_texts_are_the_surest_errors(tiny_base: Path, tmp_path: Path) -> None:
    student = Student(write_serving(tiny_base, tmp_path / "serving"), 1)
    texts = ["a film", "long " * 200, "the plot", "dull", "superb", "a story"]
    margins = np.array([1.0, 9.0, 3.0, -2.0, -4.0, -1.0])
    answers = Answers(np.stack([margins, -margins], axis=1), 1.0, 1, 1)
    gold = np.array([0, 1, 1, 0, 1, 1])  # wrong: the long text, the third and the fourth
    found = attribute(student, texts, gold, answers, 4)
    assert ["".join(word.text for word in item.parts[0]) for item in found] == ["the plot", "dull", "a film", "superb"]
