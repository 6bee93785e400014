from __future__ import annotations

import numpy as np
import pytest

from potstill.config.evaluation_params import Evaluate
from potstill.evaluation.summary import Answers, compare, score

SETTINGS = Evaluate(bootstrap=500)
LABELS = np.array([0, 0, 1, 1])


def _answers(*classes: int, temperature: float = 1.0) -> Answers:
    logits = np.zeros((len(classes), 2), dtype=np.float32)
    logits[np.arange(len(classes)), classes] = 2
    return Answers(logits, temperature, parameters=10, file_bytes=1_500_000)


def test_score_by_hand() -> None:
    scores = score(LABELS, _answers(0, 0, 1, 0), SETTINGS)
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["accuracy_low"] < 0.75 < scores["accuracy_high"]
    assert scores["ece"] == pytest.approx(1 / (1 + np.exp(-2)) - 0.75)
    assert (scores["parameters"], scores["megabytes"]) == (10, 1.5)


def test_the_temperature_moves_the_calibration_error_and_nothing_else() -> None:
    cold, warm = (score(LABELS, _answers(0, 0, 1, 0, temperature=t), SETTINGS) for t in (1.0, 2 / np.log(3)))
    assert warm["ece"] == pytest.approx(0, abs=1e-6)  # sigmoid(2 / T) is the accuracy, 3/4
    assert cold["ece"] > 0.1
    assert cold["accuracy"] == warm["accuracy"]


def test_compare_by_hand() -> None:
    models = {"teacher": _answers(0, 0, 1, 1), "control": _answers(1, 1, 1, 0), "int8": _answers(0, 0, 1, 0)}
    scores = compare(LABELS, models, "int8", SETTINGS, seed=1)
    assert scores["agreement"] == 0.75
    assert scores["teacher_ratio"] == 0.75
    assert scores["gain_over_control"] == 0.5
    assert scores["control"]["difference"] == 0.5
    p = 1 / (1 + np.exp(-2))
    assert scores["kl"] == pytest.approx((p * 2 - (1 - p) * 2) / 4)


def test_the_ratio_to_a_teacher_that_is_never_right_is_absent() -> None:
    models = {"teacher": _answers(1, 1, 0, 0), "control": _answers(1, 1, 1, 0), "int8": _answers(0, 0, 1, 0)}
    assert "teacher_ratio" not in compare(LABELS, models, "int8", SETTINGS, seed=1)
