from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.scores.statistics import Moments, bootstrap, paired_bootstrap, ratio_interval, wilson_interval


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    assert wilson_interval(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20, 0.95) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20, 0.95)[1] == 1


@given(rows=some.integers(1, 5000), share=some.floats(0, 1), confidence=some.floats(0.51, 0.999))
def test_wilson_stays_in_bounds_and_holds_the_share(rows: int, share: float, confidence: float) -> None:
    correct = round(share * rows)
    low, high = wilson_interval(correct, rows, confidence)
    assert 0 <= low <= correct / rows <= high <= 1
    assert low < high


@pytest.mark.parametrize(("correct", "rows"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(correct: int, rows: int) -> None:
    with pytest.raises(ValueError, match="correct of"):
        wilson_interval(correct, rows, 0.95)


def _predictions(rows: int, only_first: int, only_second: int, both: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.zeros(rows, dtype=np.int64)
    first, second = np.ones(rows, dtype=np.int64), np.ones(rows, dtype=np.int64)
    first[: both + only_first] = 0
    second[:both] = 0
    second[both + only_first : both + only_first + only_second] = 0
    return labels, first, second


@pytest.mark.parametrize(
    ("only_first", "only_second", "outcome"), [(90, 30, "BEATS"), (30, 90, "LOSES"), (60, 55, "NO DIFFERENCE")]
)
def test_the_verdict(only_first: int, only_second: int, outcome: str) -> None:
    labels, first, second = _predictions(1000, only_first, only_second, 700)
    found = paired_bootstrap(labels, first, second, replicates=2000, confidence=0.95, seed=1)
    assert found.outcome == outcome
    assert found.difference == pytest.approx((only_first - only_second) / 1000)
    assert found.low < found.difference < found.high


def test_the_interval_is_that_of_resampled_rows() -> None:
    labels, first, second = _predictions(400, 40, 20, 300)
    found = paired_bootstrap(labels, first, second, replicates=20_000, confidence=0.9, seed=1)
    random = np.random.default_rng(2)
    signs = (first == labels).astype(int) - (second == labels).astype(int)
    resampled = [signs[random.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.05, 0.95])), abs=0.004)


def test_equal_models_do_not_differ_at_all() -> None:
    labels, first, _ = _predictions(100, 0, 0, 60)
    found = paired_bootstrap(labels, first, first, replicates=500, confidence=0.95, seed=0)
    assert (found.outcome, found.difference, found.low, found.high) == ("NO DIFFERENCE", 0, 0, 0)


def test_seeds_repeat_and_the_order_of_the_models_only_turns_the_sign() -> None:
    arguments = _predictions(500, 50, 20, 400)
    one, two = (paired_bootstrap(*arguments, replicates=1000, confidence=0.95, seed=5) for _ in range(2))
    assert one == two
    turned = paired_bootstrap(arguments[0], arguments[2], arguments[1], replicates=1000, confidence=0.95, seed=5)
    assert turned.difference == -one.difference
    assert turned.outcome == "LOSES"


def test_many_replicates_of_many_rows_cost_nothing() -> None:
    labels, first, second = _predictions(200_000, 900, 800, 150_000)
    start = time.perf_counter()
    paired_bootstrap(labels, first, second, replicates=100_000, confidence=0.95, seed=0)
    assert time.perf_counter() - start < 2


def test_no_rows_or_other_lengths_are_refused() -> None:
    empty = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="0 labels"):
        paired_bootstrap(empty, empty, empty, replicates=100, confidence=0.95, seed=0)
    with pytest.raises(ValueError, match="3 labels"):
        paired_bootstrap(np.zeros(3), np.zeros(2), np.zeros(3), replicates=100, confidence=0.95, seed=0)


# --- rows and seeds ---------------------------------------------------------------------------------------------------


def _gains(seeds: int, rows: int, means: list[float], seed: int = 3) -> np.ndarray:
    """Gains of -1, 0 and 1, each seed's with a mean of its own."""
    random = np.random.default_rng(seed)
    shares = [[(0.2 - mean) / 2, 0.8, (0.2 + mean) / 2] for mean in means]
    return np.stack([random.choice([-1, 0, 1], size=rows, p=share) for share in shares[:seeds]])


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
def test_rows_and_seeds_against_a_plain_loop(seeds: int) -> None:
    gains = _gains(seeds, 300, [0.01, 0.08, -0.03, 0.05, 0.02, 0.11])
    found = bootstrap(gains, replicates=20_000, confidence=0.9, seed=1)
    random, means = np.random.default_rng(2), []
    for _ in range(6000):
        chosen = random.integers(0, seeds, max(seeds - 1, 1))
        rows = random.integers(0, 300, 300)
        means.append(np.mean([gains[one][rows].mean() for one in chosen]))
    assert found.difference == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.004)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_do_not_shrink_the_noise_of_training(seeds: int) -> None:
    # So many rows that the seeds alone are left: the variance of their mean is s^2 / n.
    random = np.random.default_rng(seeds)
    means = random.normal(0, 0.1, size=seeds)
    gains = np.repeat(means[:, None], 50, axis=1)
    found = bootstrap(gains, replicates=50_000, confidence=0.6827, seed=0)
    assert found.low >= means.min() - 1e-12
    draws = random.choice(means, size=(200_000, seeds - 1)).mean(axis=1)
    assert draws.std() == pytest.approx(means.std(ddof=1) / np.sqrt(seeds), rel=0.02)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.15865, 0.84135])), abs=1e-3)


def test_two_seeds_that_contradict_each_other_prove_nothing() -> None:
    gains = np.stack([np.full(1000, 1), np.full(1000, -1)])
    gains[0, :400] = 0  # +0.6 on one seed, -1 on the other
    assert bootstrap(gains, replicates=2000, confidence=0.95, seed=0).outcome == "NO DIFFERENCE"
    one = bootstrap(gains[:1], replicates=2000, confidence=0.95, seed=0)
    assert one.outcome == "BEATS"


def test_predictions_of_seeds_are_paired_with_the_same_labels() -> None:
    labels = np.array([0, 1, 1, 0])
    first, second = np.array([[0, 1, 1, 1], [0, 1, 0, 0]]), np.array([[0, 0, 1, 0], [1, 1, 1, 0]])
    found = paired_bootstrap(labels, first, second, replicates=100, confidence=0.95, seed=0)
    assert found.difference == 0
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(1, 4\) predictions"):
        paired_bootstrap(labels, first, second[:1], replicates=100, confidence=0.95, seed=0)


def _accuracy(right: np.ndarray) -> Moments:
    return Moments(right[:, None].astype(np.float64), {"accuracy": lambda sums, rows: sums[..., 0] / rows})


def test_the_interval_of_a_ratio_is_that_of_resampled_rows() -> None:
    random = np.random.default_rng(3)
    teacher = random.random(400) < 0.9
    student = teacher & (random.random(400) < 0.95)
    low, high = ratio_interval(
        _accuracy(student), _accuracy(teacher), "accuracy", replicates=4000, confidence=0.9, seed=0
    )
    rows = random.integers(400, size=(4000, 400))
    expected = np.quantile(student[rows].mean(axis=1) / teacher[rows].mean(axis=1), [0.05, 0.95])
    assert [low, high] == pytest.approx(expected, abs=0.003)
    assert low < student.mean() / teacher.mean() < high


def test_a_teacher_that_is_seldom_right_proves_nothing() -> None:
    right = np.zeros(50, dtype=bool)
    right[0] = True
    model = _accuracy(right)
    assert ratio_interval(model, model, "accuracy", replicates=500, confidence=0.9, seed=0) == (0.0, 1.0)
