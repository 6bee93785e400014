from __future__ import annotations

import numpy as np

from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.pages.differences import differing_rows, surest_errors
from potstill.evaluation.summary import Answers
from potstill.labels.offsets import OWN
from potstill.labels.tags import Unit
from potstill.labels.windows import Window


def _answers(*margins: float) -> Answers:
    return Answers(np.array([[margin, 0.0] for margin in margins]), 1.0, 1, 1)


TEXTS, GOLD, NAMES = ["same", "unsure", "sure", "x" * 900], np.array([0, 0, 1, 1]), ["no", "yes"]
RIVAL, STUDENT = _answers(5, 0.1, 4, 3), _answers(5, -0.1, -4, -0.5)


def test_the_surest_differences_come_first_and_say_who_is_right() -> None:
    differing = differing_rows(TEXTS, GOLD, RIVAL, STUDENT, NAMES, 2)
    assert differing.total == 3
    assert [row.text for row in differing.rows] == ["sure", "x" * 500 + " …"]
    first = differing.rows[0]
    assert (first.gold, first.rival, first.student, first.change) == ("yes", "no", "yes", "gained")
    assert first.rival_probability == first.student_probability
    assert first.rival_probability is not None
    assert first.rival_probability > 0.98
    assert differing_rows(TEXTS, GOLD, STUDENT, RIVAL, NAMES, 1).rows[0].change == "lost"


def test_the_surest_errors_come_first_with_the_rivals_answer() -> None:
    errors = surest_errors(TEXTS, GOLD, STUDENT, RIVAL, NAMES, 5)
    assert [row.text[:4] for row in errors.rows] == ["sure", "xxxx"]
    assert {row.change for row in errors.rows} == {"lost"}
    both = surest_errors(TEXTS, GOLD, RIVAL, RIVAL, NAMES, 5)
    assert {row.change for row in both.rows} == {"both wrong"}
    assert surest_errors(TEXTS, GOLD, RIVAL, _answers(1, 1, -1, -1), NAMES, 5).total == 0


def test_entities_are_named_and_a_text_is_right_as_a_whole() -> None:
    units = [[Unit(0, 1), Unit(2, 3)], [Unit(0, 1)]]
    gold = GoldTags(["a b", "c"], units, np.array([1, 0, 0]), np.full(3, OWN), ["O", "B-LOC", "I-LOC"])
    logits = np.zeros((2, 3, 3))
    logits[:, [0, 1, 2], [1, 0, 0]] = 3
    logits[1, 2] = [0, 3, 0]  # the student finds an entity that is none
    rival, student = (Answers(side, 1.0, 1, 1, "token_classification") for side in logits)
    for rows in (
        differing_rows([], gold, rival, student, [], 5),
        surest_errors([], gold, rival, student, [], 5),
    ):
        (row,) = rows.rows
        assert (row.text, row.gold, row.rival, row.student, row.change) == ("c", "none", "none", "LOC c", "lost")
        assert row.student_probability == row.rival_probability


def test_answers_to_questions_have_no_probability() -> None:
    offsets = np.array([[-1, -1], [0, 1], [2, 5]])
    window = Window([1, 2, 3], [0, 1, 1], offsets)
    gold = GoldAnswers([("what", "a dog")], [["a"]], [[window]], False)
    sides = []
    for token in (1, 2):
        side = np.empty(1, dtype=object)
        side[0] = np.eye(3, dtype=np.float32)[[token, token]].T * 9
        sides.append(Answers(side, 1.0, 1, 1, "question_answering"))
    (row,) = differing_rows([], gold, sides[0], sides[1], [], 5).rows
    assert (row.text, row.gold, row.rival, row.student, row.change) == ("what\na dog", "a", "a", "dog", "lost")
    assert row.student_probability is None
    assert surest_errors([], gold, sides[0], sides[1], [], 5).total == 1
    assert surest_errors([], gold, sides[1], sides[0], [], 5).total == 0
