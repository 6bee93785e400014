"""Scores of answers that are numbers."""

from __future__ import annotations

import numpy as np

from potstill.scores.metrics import Doubles, Floats
from potstill.scores.statistics import Moments

# A spread below this share of the sum of squares that it is computed from is a rounding error: all values are equal.
_ROUNDING = 1e-13


def moments(values: Floats, answers: Floats) -> Moments:
    """Compute `r2`, `mse`, `mae`, `pearson` and `spearman` of answers [rows] to gold values [rows].

    Resamples keep each row's rank among all rows. So Spearman's estimate is exact, and its interval an approximation.
    """
    gold = values.astype(np.float64)
    centre = gold.mean()  # sums of squares about 0 would lose digits far from it
    y, a = gold - centre, answers.astype(np.float64) - centre
    s, t = _ranks(y), _ranks(a)
    parts = [(y - a) ** 2, np.abs(y - a), y, a, y * y, a * a, y * a, s, t, s * s, t * t, s * t]

    def r2(sums: Doubles, rows: int) -> Doubles:
        total = _spread(sums[..., 2], sums[..., 4], rows)
        score: Doubles = np.where(total > 0, 1 - sums[..., 0] / np.where(total > 0, total, 1), 0.0)
        return score

    return Moments(
        np.stack(parts, axis=1),
        {
            "r2": r2,
            "mse": lambda sums, rows: sums[..., 0] / rows,
            "mae": lambda sums, rows: sums[..., 1] / rows,
            "pearson": lambda sums, rows: _correlation(sums[..., 2:7], rows),
            "spearman": lambda sums, rows: _correlation(sums[..., 7:12], rows),
        },
    )


def correlation(first: Floats, second: Floats) -> float:
    """Compute Pearson's correlation of two models' answers [rows]; 0 if either is constant."""
    x, y = (answers.astype(np.float64) - float(answers.mean()) for answers in (first, second))
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm else 0.0


def _correlation(sums: Doubles, rows: int) -> Doubles:
    """Compute Pearson's correlation from the sums of x, y, x^2, y^2 and xy."""
    x, y, xx, yy, xy = (sums[..., index] for index in range(5))
    spread = _spread(x, xx, rows) * _spread(y, yy, rows)
    correlations: Doubles = np.where(spread > 0, (xy - x * y / rows) / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
    return correlations


def _spread(sums: Doubles, squares: Doubles, rows: int) -> Doubles:
    """Compute the sum of squares about the mean from the sum and the sum of squares; 0 if all values are equal."""
    spread: Doubles = squares - sums * sums / rows
    return np.where(spread > _ROUNDING * squares, spread, 0.0)


def _ranks(values: Doubles) -> Doubles:
    """Rank values around 0 [rows]; equal values share the mean of their ranks."""
    _, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Doubles = ends - (counts + 1) / 2 - (len(values) - 1) / 2
    return ranks[indices]
