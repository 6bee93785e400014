from __future__ import annotations

import numpy as np
import pytest

from potstill.scores.calibration import HIGHEST, LOWEST, fit_temperature
from potstill.scores.metrics import log_softmax


def _drawn(temperature: float, rows: int = 4000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from their own softmax at a temperature."""
    random = np.random.default_rng(3)
    logits = random.normal(scale=3, size=(rows, classes))
    probabilities = np.exp(log_softmax(logits, temperature))
    labels = (random.random((rows, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_the_labels_were_drawn_at_is_found(temperature: float) -> None:
    logits, labels = _drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_it_is_the_minimum_of_the_likelihood() -> None:
    from scipy.optimize import minimize_scalar

    logits, labels = _drawn(1.7, rows=300)

    def loss(temperature: float) -> float:
        return -float(log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-5)


def test_by_hand() -> None:
    # Three of four rows are right with a margin of 2: sigmoid(2 / T) = 3/4, so T = 2 / log(3).
    logits = np.array([[2.0, 0.0]] * 4, dtype=np.float32)
    assert fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(2 / np.log(3), rel=1e-9)


def test_scaling_the_logits_scales_the_temperature() -> None:
    logits, labels = _drawn(1.0, rows=500)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * fit_temperature(logits, labels), rel=1e-9)


def test_separable_rows_end_at_the_lower_bound_and_hopeless_ones_at_the_upper() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(LOWEST)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(HIGHEST)


def test_enormous_logits_do_not_overflow() -> None:
    logits = np.array([[1e6, 0.0], [1e6, 0.0], [0.0, 1e6]], dtype=np.float32)
    assert fit_temperature(logits, np.array([0, 1, 1])) == pytest.approx(HIGHEST)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
        (np.zeros((3, 2)), np.zeros(2, dtype=int)),
        (np.zeros((2, 2)), np.array([0, 2])),
        (np.zeros((2, 2)), np.array([0, -1])),
        (np.array([[np.nan, 0.0]]), np.array([0])),
    ],
)
def test_what_cannot_be_fitted_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"logits|labels"):
        fit_temperature(logits, labels)
