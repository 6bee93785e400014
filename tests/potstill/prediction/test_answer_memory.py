from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from potstill.inference.profile import observe
from potstill.inference.runtime import Floats, Student
from potstill.prediction import answer_memory
from potstill.prediction.answer_memory import AnswerMemory
from tests.potstill.prediction.models import TEXTS
from tests.potstill.serving.folders import write_serving


class Counting(Student):
    """A student that counts the texts that it computes."""

    computed = 0

    def compute(self, rows: Sequence[Any]) -> list[Floats]:
        self.computed += len(rows)
        return super().compute(rows)


@pytest.fixture(scope="module")
def student(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Counting:
    return Counting(write_serving(tiny_base, tmp_path_factory.mktemp("int8") / "serving"), 1)


def test_a_text_that_comes_again_is_not_computed_again(student: Counting) -> None:
    memory, before = AnswerMemory(student), student.computed
    first = memory.observe(TEXTS[:4])
    again = memory.observe([TEXTS[5], *TEXTS[1:4]])
    assert student.computed == before + 5
    assert [*first, again[0]] == observe(student, [*TEXTS[:4], TEXTS[5]])
    assert again[1:] == first[1:]


def test_answers_that_depend_on_the_other_texts_of_a_call_are_not_kept(tiny_base: Path, tmp_path: Path) -> None:
    student = Counting(write_serving(tiny_base, tmp_path / "serving", variant="fp32"), 1)
    memory = AnswerMemory(student)
    memory.observe(TEXTS[:4])
    memory.observe(TEXTS[:4])
    assert student.computed == 8


def test_the_oldest_texts_are_forgotten(student: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_memory, "_MOST_CHARACTERS", 300)
    memory, short = AnswerMemory(student), TEXTS[:4]
    computed = []
    for texts in (short, short[1:], short[:1], short[2:], ["a" * 1000], short):
        before = student.computed
        memory.observe(texts)
        computed.append(student.computed - before)
    assert computed == [4, 0, 1, 0, 1, 4]
