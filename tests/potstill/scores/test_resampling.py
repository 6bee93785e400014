from __future__ import annotations

import numpy as np
import pytest

from potstill.scores import resampling
from potstill.scores.resampling import resampled_sums
from potstill.scores.statistics import Moments, compare_scores

ROWS = 600


def _columns(distinct: bool) -> np.ndarray:
    random = np.random.default_rng(4)
    values = random.gamma(2, size=(ROWS, 2)) if distinct else random.integers(3, size=(ROWS, 2)).astype(float)
    return np.concatenate([values, np.ones((ROWS, 1))], axis=1)


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct rows", "few kinds of rows"])
def test_the_fast_ways_draw_as_the_bootstrap_does(monkeypatch: pytest.MonkeyPatch, distinct: bool) -> None:
    columns = _columns(distinct)
    (slow,) = resampled_sums([columns], replicates=20_000, seed=1)
    monkeypatch.setattr(resampling, "_FEW_DRAWS", 0)
    (fast,) = resampled_sums([columns], replicates=20_000, seed=1)
    assert (fast[:, 2] == ROWS).all()  # each resample has as many rows
    # A resample's sum has the mean n·m and the covariance n·S of one row.
    covariance = ROWS * np.cov(columns[:, :2].T, bias=True)
    assert fast[:, :2].mean(axis=0) == pytest.approx(ROWS * columns[:, :2].mean(axis=0), rel=2e-3)
    assert np.cov(fast[:, :2].T) == pytest.approx(covariance, rel=0.05, abs=0.05 * covariance.max())
    shares = [0.005, 0.025, 0.5, 0.975, 0.995]
    spread = np.sqrt(covariance[0, 0])
    assert np.abs(np.quantile(fast[:, 0], shares) - np.quantile(slow[:, 0], shares)).max() < 0.12 * spread


def test_counts_are_multinomial() -> None:
    random = np.random.default_rng(0)
    rows, replicates = 200, 20_000
    counts = np.concatenate(list(resampling._poisson_counts(random, rows, replicates))).astype(float)
    assert (counts.sum(axis=1) == rows).all()
    binomial = np.exp([_log_binomial(rows, count) for count in range(6)])
    found = [(counts == count).mean() for count in range(6)]
    assert found == pytest.approx(binomial, rel=0.05, abs=2e-4)
    # Two rows compete for the same draws: their covariance is -n·p·p.
    first, second = counts[:, :100].sum(axis=1), counts[:, 100:].sum(axis=1)
    assert np.cov(first, second)[0, 1] == pytest.approx(-rows / 4, rel=0.05)


def _log_binomial(rows: int, count: int) -> float:
    ways = sum(np.log((rows - k) / (k + 1)) for k in range(count))
    return float(ways - count * np.log(rows) + (rows - count) * np.log(1 - 1 / rows))


@pytest.mark.parametrize("limit", [0, 10**9])
def test_models_are_scored_on_the_same_draws(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(resampling, "_FEW_DRAWS", limit)
    columns = _columns(distinct=True)
    first, again, twice = resampled_sums([columns, columns, 2 * columns], replicates=50, seed=3)
    assert np.allclose(first, again)
    assert np.allclose(2 * first, twice)
    model = Moments(columns, {"mean": lambda sums, rows: sums[..., 0] / rows})
    found = compare_scores([model], [model], "mean", replicates=200, confidence=0.95, seed=0)
    assert (found.outcome, found.difference) == ("NO DIFFERENCE", 0)
    assert (found.low, found.high) == pytest.approx((0, 0), abs=1e-12)


def test_seeds_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_FEW_DRAWS", 0)
    columns = _columns(distinct=True)
    (one,), (other,) = (resampled_sums([columns], replicates=30, seed=7) for _ in range(2))
    assert np.array_equal(one, other)
    (third,) = resampled_sums([columns], replicates=30, seed=8)
    assert not np.array_equal(one, third)


def test_one_row_and_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_FEW_DRAWS", 0)
    for rows in (1, 2, 3):
        columns = np.arange(1.0, rows + 1)[:, None]
        (sums,) = resampled_sums([columns], replicates=2000, seed=0)
        assert sums.mean() == pytest.approx(columns.sum(), rel=0.05)
        assert (sums >= rows).all()
        assert (sums <= rows * rows).all()


def test_a_few_draws_keep_the_numbers_of_their_seed() -> None:
    # Intervals that were reported before the fast ways came stay what they were.
    columns = np.arange(10.0)[:, None]
    (sums,) = resampled_sums([columns], replicates=3, seed=0)
    drawn = np.random.default_rng(0).integers(10, size=(3, 10))
    assert sums[:, 0].tolist() == columns[drawn, 0].sum(axis=1).tolist()
