from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import binom

from potstill.scores.selective import STARTS, THRESHOLDS, accuracy_coverage, find_threshold, upper_bound


def _population(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    odds = random.gamma(1.5, 2.0, size=rows)
    confidence = 1 / (1 + np.exp(-odds))
    return confidence, random.random(rows) < confidence


def test_the_curve_by_hand() -> None:
    curve = accuracy_coverage(np.array([0.6, 0.9, 0.8, 0.7]), np.array([False, True, True, False]))
    assert curve.coverage == [0.25, 0.5, 0.75, 1]
    assert curve.accuracy == pytest.approx([1, 1, 2 / 3, 0.5])
    assert curve.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_rows_of_equal_confidence_are_answered_together() -> None:
    right = np.array([True, False, True, False])
    curve = accuracy_coverage(np.full(4, 0.8), right)
    assert (curve.coverage, curve.accuracy) == ([1], [0.5])
    assert curve.aurc == pytest.approx(0.5)  # in a random order each prefix has an expected error of 1/2


@settings(max_examples=50, deadline=None)
@given(rows=some.integers(1, 400), seed=some.integers(0, 99))
def test_the_curve_ends_with_all_rows(rows: int, seed: int) -> None:
    confidence, right = _population(rows, seed)
    curve = accuracy_coverage(confidence, right, points=20)
    assert len(curve.coverage) <= 20
    assert curve.coverage[-1] == 1
    assert curve.accuracy[-1] == pytest.approx(right.mean())
    assert curve.coverage == sorted(curve.coverage)
    assert 0 <= curve.aurc <= 1


def test_the_bound_is_clopper_and_pearsons() -> None:
    events, rows = np.array([0, 3, 20]), np.array([59, 100, 20])
    bounds = upper_bound(events, rows, 0.05)
    assert bounds[0] == pytest.approx(1 - 0.05 ** (1 / 59))
    assert binom.cdf(3, 100, bounds[1]) == pytest.approx(0.05)
    assert bounds[2] == 1
    assert upper_bound(np.array([0]), np.array([0]), 0.05)[0] == 1


def test_a_target_is_missed_in_at_most_delta_of_resamples() -> None:
    confidence, right = _population(50_000)
    for target in (0.9, 0.95):
        missed = 0
        for seed in range(200):
            rows = np.random.default_rng(seed).integers(len(right), size=1500)
            found = find_threshold(confidence[rows], right[rows], target=target, delta=0.05)
            assert found is not None
            missed += bool(right[confidence >= found.confidence].mean() < target)
        assert missed <= 10


def test_scores_that_say_nothing_rarely_pass() -> None:
    # Right on 94% at every confidence: any threshold misses 0.95.
    passed = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        passed += find_threshold(random.random(800), random.random(800) < 0.94, target=0.95, delta=0.05) is not None
    assert passed <= 10


@settings(max_examples=60, deadline=None)
@given(seed=some.integers(0, 999), low=some.floats(0.5, 0.99), high=some.floats(0.5, 0.99))
def test_a_higher_target_never_lowers_the_threshold(seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    confidence, right = _population(700, seed)
    lenient = find_threshold(confidence, right, target=low, delta=0.05)
    strict = find_threshold(confidence, right, target=high, delta=0.05)
    if strict is not None:
        assert lenient is not None
        assert lenient.confidence <= strict.confidence
        assert strict.max_error <= 1 - high
        assert strict.errors / strict.answered <= strict.max_error


def test_what_dev_has_chosen_is_paid_for() -> None:
    confidence, right = _population(3000)
    once = find_threshold(confidence, right, target=0.95, delta=0.05)
    often = find_threshold(confidence, right, target=0.95, delta=0.05, choices=20)
    assert once is not None
    assert often is not None
    assert often.confidence >= once.confidence
    assert find_threshold(confidence, right, target=0.95, delta=0.05 / 20) == often


def test_too_few_rows_prove_nothing() -> None:
    assert find_threshold(np.full(40, 0.9999), np.ones(40, dtype=bool), target=0.95, delta=0.05) is None
    assert find_threshold(np.zeros(0), np.zeros(0, dtype=bool), target=0.95, delta=0.05) is None


def test_thresholds_are_fixed_and_fall() -> None:
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS), reverse=True)
    assert len(STARTS) == 5
