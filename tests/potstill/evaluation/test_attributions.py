from __future__ import annotations

from pathlib import Path

import pytest

from potstill.evaluation.attributions import attribute
from potstill.inference.runtime import Student
from tests.potstill.serving.folders import write_serving


@pytest.mark.parametrize("pair", [False, True])
def test_a_words_weight_is_the_drop_without_it(tiny_base: Path, tmp_path: Path, pair: bool) -> None:
    student = Student(write_serving(tiny_base, tmp_path / "serving", pair=pair), 1)
    text = ("a superb film", "dull story") if pair else "a superb film, dull"
    (found,) = attribute(student, [text], ["negative"])  # type: ignore[list-item]
    parts = ["".join(word.text for word in part) for part in found.parts]
    assert parts == (["a superb film", "dull story"] if pair else ["a superb film, dull"])
    (whole,) = student.predict([text])  # type: ignore[list-item]
    assert found.answer == whole.label
    assert found.score == max(whole.probabilities)
    without = ("a  film", "dull story") if pair else "a  film, dull"
    (other,) = student.predict([without])  # type: ignore[list-item]
    index = student.card.labels.index(found.answer)
    weights = {word.text: word.weight for word in found.parts[0]}
    assert weights["superb"] == pytest.approx(found.score - other.probabilities[index])
    assert weights[" "] == 0
