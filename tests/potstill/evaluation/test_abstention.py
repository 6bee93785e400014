from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from potstill.config.evaluation_params import Abstention
from potstill.evaluation.abstention import confidence_and_right, report_abstention
from potstill.evaluation.gold_spans import GoldTags
from potstill.evaluation.summary import Answers
from potstill.labels.offsets import OWN
from potstill.labels.tags import Unit


def _classes(rows: int, seed: int, *, overconfident: float = 1.0) -> tuple[np.ndarray, Answers]:
    random = np.random.default_rng(seed)
    odds = random.gamma(1.5, 2.0, size=rows)
    labels = random.integers(2, size=rows)
    right = random.random(rows) < 1 / (1 + np.exp(-odds / overconfident))
    logits = np.zeros((rows, 2))
    logits[np.arange(rows), np.where(right, labels, 1 - labels)] = odds
    return labels, Answers(logits, 1.0, 10, 10)


def test_a_threshold_from_dev_is_checked_on_test() -> None:
    report = report_abstention(_classes(2000, 0), _classes(2000, 1), Abstention(), choices=1)
    assert report.threshold is not None
    assert report.test is not None
    assert report.test.check in ("CONFIRMED", "NOT CONTRADICTED")
    assert report.test.right is not None
    assert report.test.low < report.test.right < report.test.high
    assert report.test.coverage == pytest.approx(report.threshold.answered / 2000, abs=0.05)
    assert "at least 95.0% of the answers are right, which test" in report.sentence()
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["target"] == 0.95


def test_other_texts_break_the_target() -> None:
    report = report_abstention(_classes(2000, 0), _classes(2000, 1, overconfident=4), Abstention(), choices=1)
    assert report.test is not None
    assert report.test.check == "BROKEN"
    assert "but test contradicts it" in report.sentence()


def test_what_dev_has_chosen_raises_the_threshold() -> None:
    once, often = (
        report_abstention(_classes(2000, 0), _classes(2000, 1), Abstention(), choices=number) for number in (1, 1000)
    )
    assert once.threshold is not None
    assert often.threshold is not None
    assert often.threshold.confidence > once.threshold.confidence
    assert often.to_json()["choices"] == 1000


def test_no_threshold_is_said() -> None:
    report = report_abstention(_classes(40, 0), _classes(200, 1), Abstention(), choices=1)
    assert (report.threshold, report.test) == (None, None)
    assert report.sentence().startswith("no threshold is proven on dev")
    assert report.curve.coverage[-1] == 1


def test_several_labels_are_right_together() -> None:
    logits = np.array([[2.0, -2.0], [2.0, 1.0]])
    confidence, right = confidence_and_right(np.array([[1, 0], [1, 0]]), Answers(logits, 1.0, 10, 10, "multi_label"))
    p, q = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))
    assert confidence == pytest.approx([p * p, p * q])
    assert right.tolist() == [True, False]


def test_the_temperature_moves_the_confidence() -> None:
    labels = np.array([0])
    cold, warm = (confidence_and_right(labels, Answers(np.array([[2.0, 0]]), t, 10, 10))[0] for t in (1.0, 2.0))
    assert warm == pytest.approx(1 / (1 + np.exp(-1)))
    assert cold > warm


def test_the_tags_of_a_text_are_right_together() -> None:
    units = [[Unit(0, 1), Unit(2, 3)], [Unit(0, 1)]]
    gold = GoldTags(["a b", "c"], units, np.array([1, 0, 0]), np.full(3, OWN), ["O", "B-LOC", "I-LOC"])
    logits = np.zeros((3, 3))
    logits[[0, 1, 2], [1, 0, 1]] = 3  # the second text gets an entity that is none
    confidence, right = confidence_and_right(gold, Answers(logits, 1.0, 10, 10, "token_classification"))
    p = np.exp(3) / (np.exp(3) + 2)
    assert confidence == pytest.approx([p * p, p])
    assert right.tolist() == [True, False]


def test_numbers_are_neither_right_nor_wrong() -> None:
    with pytest.raises(ValueError, match="regression"):
        confidence_and_right(np.zeros(1), Answers(np.zeros((1, 1)), 1.0, 10, 10, "regression"))


@pytest.mark.parametrize("section", [{"right": 1.0}, {"right": 0.0}, {"right": 1.2}, {"delta": 0.0}, {"delta": 1.0}])
def test_targets_out_of_range_are_refused(section: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Abstention(**section)
