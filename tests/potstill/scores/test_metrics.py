from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from potstill.errors import ModelError
from potstill.scores import metrics
from potstill.scores.probabilities import softmax

random = np.random.default_rng(0)


def test_softmax_of_large_logits_is_finite_and_sums_to_one() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3] * 3], atol=1e-12)
    np.testing.assert_allclose(np.exp(metrics.log_softmax(logits)), probabilities)


def test_softmax_divides_by_the_temperature() -> None:
    logits = np.array([[np.log(4.0) * 2, 0.0]])
    np.testing.assert_allclose(softmax(logits, 2.0), [[0.8, 0.2]])


def test_accuracy_and_confusion_by_hand() -> None:
    labels, predictions = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert metrics.accuracy(labels, predictions) == pytest.approx(0.6)
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, predictions, 3), [[1, 1, 0], [0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_macro_f1_is_that_of_scikit_learn(classes: int) -> None:
    from sklearn.metrics import confusion_matrix, f1_score

    labels, predictions = random.integers(0, classes, 60), random.integers(0, classes, 60)
    assert metrics.macro_f1(labels, predictions) == pytest.approx(f1_score(labels, predictions, average="macro"))
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predictions, classes),
        confusion_matrix(labels, predictions, labels=range(classes)),
    )


def test_macro_f1_leaves_out_classes_that_occur_nowhere_and_counts_those_never_predicted() -> None:
    from sklearn.metrics import f1_score

    labels, predictions = np.array([0, 0, 4, 4]), np.array([0, 0, 0, 0])
    assert metrics.macro_f1(labels, predictions) == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert metrics.macro_f1(labels, predictions) == pytest.approx((2 * 2 / 6 + 0) / 2)


def test_ece_by_hand() -> None:
    # Two bins of ten are filled: 0.75 twice (one right) and 0.95 once (right).
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.05, 0.95]])
    bins = metrics.reliability(np.array([0, 1, 1]), probabilities, 10)
    assert bins.rows.tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
    assert bins.ece == pytest.approx(2 / 3 * 0.25 + 1 / 3 * 0.05)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin_and_one_to_the_last() -> None:
    bins = metrics.reliability(np.array([0, 0]), np.array([[0.5, 0.5], [1.0, 0.0]]), 4)
    assert bins.rows.tolist() == [0, 1, 0, 1]


def test_ece_of_probabilities_that_hold_is_small() -> None:
    probabilities = random.dirichlet([1, 1, 1], 20_000)
    labels = (random.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    assert metrics.reliability(labels, probabilities, 15).ece < 0.02


def test_kl_by_hand_and_zero_with_itself() -> None:
    teacher, student = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert metrics.kl_divergence(teacher, student) == pytest.approx(expected)
    assert metrics.kl_divergence(teacher, teacher) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_with_their_row(bad: float) -> None:
    logits = np.zeros((5, 2), dtype=np.float32)
    metrics.require_finite(logits, "data/teacher")
    logits[3, 1] = bad
    with pytest.raises(ModelError, match=r"data/teacher answers NaN or infinity on 1 of 5 rows \(first: row 3\)"):
        metrics.require_finite(logits, "data/teacher")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, potstill.scores.metrics, potstill.scores.calibration, potstill.scores.statistics, "
        "potstill.evaluation.gates, potstill.evaluation.pages.table, potstill.evaluation.latency;"
        "sys.exit(' '.join({'sklearn', 'scipy', 'torch', 'matplotlib', 'rich', 'jinja2'} & set(sys.modules)) or None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
