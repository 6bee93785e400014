"""What dev says of a fine-tuned teacher: above chance or not, and under which order of its labels."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.data.tokens.batches import ragged
from potstill.evaluation.teacher_check import fitting_order, judge
from potstill.labels.offsets import IGNORED


def logits_for(answers: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answers]


def draw(rows: int, shares: list[float], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(shares), size=rows, p=shares)


def wrong(gold: np.ndarray, share: float, classes: int, seed: int = 1) -> np.ndarray:
    """The gold labels, a share of them drawn anew."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(gold)) < share, random.integers(classes, size=len(gold)), gold)


@pytest.mark.parametrize("rows", [8, 40, 1000])
def test_a_right_teacher_of_even_and_of_rare_classes_passes(rows: int) -> None:
    for shares in ([0.5, 0.5], [0.8, 0.2], [0.25] * 4):
        gold = draw(rows, shares)
        verdict = judge("single_label", logits_for(wrong(gold, 0.1, len(shares)), len(shares)), gold)
        assert verdict is not None
        assert (verdict.above_chance, verdict.order) == (True, None)


def test_a_rare_class_that_is_known_is_above_chance_though_the_majority_alone_scores_as_high() -> None:
    gold = np.zeros(300, dtype=np.int64)
    gold[:6] = 1
    answers = gold.copy()
    answers[3:9] = 1 - answers[3:9]  # three of six are missed, three others taken: 98%, as for a constant answer
    verdict = judge("single_label", logits_for(answers, 2), gold)
    assert verdict is not None
    assert verdict.above_chance
    for answer in (0, 1):
        constant = judge("single_label", logits_for(np.full_like(gold, answer), 2), gold)
        assert constant is not None
        assert (constant.above_chance, constant.order) == (False, None)


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_answers_without_a_relation_are_not_above_chance_and_have_no_better_order(classes: int) -> None:
    stopped, ordered = 0, 0
    for seed in range(40):
        gold, answers = (draw(120, [1 / classes] * classes, 2 * seed + side) for side in (0, 1))
        verdict = judge("single_label", logits_for(answers, classes), gold)
        assert verdict is not None
        stopped += verdict.above_chance is False
        ordered += verdict.order is not None
    assert stopped >= 34  # 95% of them
    assert ordered <= 2  # 1%


def test_a_weak_teacher_of_many_small_classes_keeps_its_order() -> None:
    for seed in range(20):
        gold = draw(300, [1 / 100] * 100, seed)
        verdict = judge("single_label", logits_for(wrong(gold, 0.7, 100, seed), 100), gold)
        assert verdict is not None
        assert (verdict.above_chance, verdict.order) == (True, None)


def test_labels_in_another_order_are_found() -> None:
    gold = draw(40, [0.6, 0.4])
    verdict = judge("single_label", logits_for(1 - gold, 2), gold)
    assert verdict is not None
    assert verdict.order == (1, 0)
    assert verdict.words == "right on 0 of the 40 rows of dev (0.0%)"
    assert verdict.better == "100.0%"
    turn = np.array([0, 2, 3, 1])  # the first class is where it belongs
    gold = draw(80, [0.25] * 4)
    verdict = judge("single_label", logits_for(np.argsort(turn)[wrong(gold, 0.2, 4)], 4), gold)
    assert verdict is not None
    assert verdict.order == (0, 2, 3, 1)


def test_of_too_few_rows_nothing_is_said() -> None:
    for gold in ([0, 1], [1, 1, 1, 1, 1]):
        verdict = judge("single_label", logits_for(1 - np.array(gold), 2), np.array(gold))
        assert verdict is not None
        assert (verdict.above_chance, verdict.order) == (None, None)


def test_of_a_single_row_of_several_labels_nothing_is_said() -> None:
    verdict = judge("multi_label", np.ones((1, 3), dtype=np.float32), np.array([[1, 0, 1]]))
    assert verdict is not None
    assert (verdict.above_chance, verdict.order) == (None, None)


def test_tokens_are_judged_where_they_are_asked() -> None:
    gold = [np.array([IGNORED, 0, 1, 2, 0, 0, IGNORED]) for _ in range(12)]
    asked = np.concatenate([row[row != IGNORED] for row in gold])
    right = judge("token_classification", logits_for(asked, 3), ragged(gold))
    assert right is not None
    assert (right.above_chance, right.order) == (True, None)
    assert "60 tokens of dev" in right.words
    turned = judge("token_classification", logits_for((asked + 1) % 3, 3), ragged(gold))
    assert turned is not None
    assert turned.order == (2, 0, 1)


def several(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gold = (random.random((rows, 3)) < [0.5, 0.3, 0.1]).astype(np.int64)
    return gold, (2 * gold - 1 + random.normal(size=gold.shape)).astype(np.float32)


def test_several_labels_are_judged_one_by_one() -> None:
    gold, logits = several(200)
    verdict = judge("multi_label", logits, gold)
    assert verdict is not None
    assert (verdict.above_chance, verdict.order, verdict.weak) == (True, None, ())
    swapped = judge("multi_label", logits[:, [1, 0, 2]], gold)
    assert swapped is not None
    assert swapped.order == (1, 0, 2)
    logits[:, 1] = np.random.default_rng(5).normal(size=200)
    weak = judge("multi_label", logits, gold)
    assert weak is not None
    assert (weak.above_chance, weak.weak) == (True, (1,))
    noise = judge("multi_label", np.random.default_rng(6).normal(size=(200, 3)).astype(np.float32), gold)
    assert noise is not None
    assert noise.above_chance is False


def test_a_rare_label_below_the_threshold_counts_by_its_rank() -> None:
    gold, logits = several(200)
    verdict = judge("multi_label", logits - 5, gold)  # no logit is above 0
    assert verdict is not None
    assert (verdict.above_chance, verdict.weak) == (True, ())


def test_numbers_have_to_say_more_than_the_mean() -> None:
    random = np.random.default_rng(0)
    gold = random.normal(3, 1, 100)
    good = judge("regression", (gold + random.normal(0, 0.5, 100))[:, None], gold)
    assert good is not None
    assert good.above_chance
    noise = judge("regression", random.normal(3, 1, (100, 1)), gold)
    assert noise is not None
    assert noise.above_chance is False
    scaled = judge("regression", ((gold - 3) / 2)[:, None], gold)
    assert scaled is not None
    assert scaled.above_chance is False
    assert "correlation 1.00: dev is 2 times its number +3" in scaled.words


def test_names_that_say_nothing_get_the_order_that_fits() -> None:
    gold = draw(60, [0.5, 0.5])
    assert fitting_order("single_label", logits_for(1 - gold, 2), gold) == ([1, 0], 1.0)
    assert fitting_order("single_label", logits_for(draw(60, [0.5, 0.5], 9), 2), gold) is None
    flags, logits = several(200)
    fitting = fitting_order("multi_label", logits[:, [2, 0, 1]], flags)
    assert fitting is not None
    assert fitting[0] == [2, 0, 1]


def test_an_order_that_names_suggest_is_taken_where_it_is_above_chance() -> None:
    gold = draw(39, [0.2] * 5)
    weak = wrong(gold, 0.8, 5)
    assert fitting_order("single_label", logits_for(weak, 5), gold, [0, 1, 2, 3, 4]) is not None
    assert fitting_order("single_label", logits_for(1 - draw(40, [0.5] * 2), 2), draw(40, [0.5] * 2), [0, 1]) == (
        [1, 0], 1.0,
    )  # fmt: skip


def test_answers_to_questions_have_no_chance_level() -> None:
    assert judge("question_answering", np.empty(0), np.empty(0)) is None
