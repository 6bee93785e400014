"""How sure a number is: an interval for one accuracy, a verdict for a difference of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from potstill.evaluation.metrics import Doubles, Ints

Outcome = Literal["BEATS", "NO DIFFERENCE", "LOSES"]


def wilson_interval(correct: int, rows: int, confidence: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927): holds its level near 0 and 1, where the normal one leaves [0, 1].

    Raises:
        ValueError: no rows, or more correct ones than rows.
    """
    if not 0 <= correct <= rows or rows == 0:
        raise ValueError(f"{correct} correct of {rows} rows")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = correct / rows, z * z / rows
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / rows + spread / (4 * rows)))
    # At the ends the bounds are exact; rounding would leave 1e-17 there.
    low = 0.0 if correct == 0 else max(centre - half, 0.0)
    high = 1.0 if correct == rows else min(centre + half, 1.0)
    return low, high


@dataclass(frozen=True)
class Comparison:
    """A model's score minus another's on the same rows.

    Attributes:
        outcome: BEATS or LOSES where the whole interval is on one side of 0.
        difference: score of the first minus score of the second.
        low: lower end of the interval of the difference.
        high: upper end.
    """

    outcome: Outcome
    difference: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return asdict(self)


def paired_bootstrap(
    labels: Ints, first: Ints, second: Ints, *, replicates: int, confidence: float, seed: int
) -> Comparison:
    """Compare two models' accuracy on the same rows (paired percentile bootstrap; Efron & Tibshirani 1993, ch. 13).

    A row contributes +1 (only the first is right), -1 (only the second) or 0, so resampling the rows is one draw of
    three counts from a multinomial: exact, and without a loop over replicates.

    Args:
        labels: [rows] gold classes.
        first: [rows] classes predicted by the model in question.
        second: [rows] classes predicted by the one it is compared with.
        replicates: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        seed: of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: no rows, or arrays of different length.
    """
    if not len(labels) or not len(labels) == len(first) == len(second):
        raise ValueError(f"{len(labels)} labels, {len(first)} and {len(second)} predictions")
    rows = len(labels)
    signs = (first == labels).astype(np.int64) - (second == labels).astype(np.int64)
    counts = np.bincount(signs + 1, minlength=3)
    draws = np.random.default_rng(seed).multinomial(rows, counts / rows, size=replicates)
    differences = (draws[:, 2] - draws[:, 0]) / rows
    return _comparison(float(counts[2] - counts[0]) / rows, differences, confidence)


def _comparison(difference: float, differences: Doubles, confidence: float) -> Comparison:
    low, high = _interval(differences, confidence)
    outcome: Outcome = "BEATS" if low > 0 else "LOSES" if high < 0 else "NO DIFFERENCE"
    return Comparison(outcome, difference, low, high)


def _interval(values: Doubles, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# --- scores that are no share of rows ---------------------------------------------------------------------------------

# Draws of a row that are held at once.
_DRAWS = 2_000_000


@dataclass(frozen=True)
class Moments:
    """Scores of one model that follow from sums over the rows, as F1, squared error and correlation do.

    Attributes:
        columns: [rows, k] what each row adds to the sums.
        scores: name -> function of the sums [..., k] and the number of rows, giving scores [...].
    """

    columns: Doubles
    scores: Mapping[str, Callable[[Doubles, int], Doubles]]

    @property
    def values(self) -> dict[str, float]:
        """Each score on the rows as they are."""
        sums = self.columns.sum(axis=0)
        return {name: float(score(sums, len(self.columns))) for name, score in self.scores.items()}

    def resampled(self, *, replicates: int, seed: int) -> dict[str, Doubles]:
        """[replicates] values of each score on rows drawn with replacement; the same draws for the same seed."""
        rows = len(self.columns)
        sums = np.concatenate([counts @ self.columns for counts in _resamples(rows, replicates, seed)])
        return {name: score(sums, rows) for name, score in self.scores.items()}

    def intervals(self, *, replicates: int, confidence: float, seed: int) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap interval of each score (Efron & Tibshirani 1993, ch. 13)."""
        found = self.resampled(replicates=replicates, seed=seed)
        return {name: _interval(values, confidence) for name, values in found.items()}


def compare_scores(
    first: Moments, second: Moments, name: str, *, replicates: int, confidence: float, seed: int
) -> Comparison:
    """Compare a score of two models on the same rows: both are scored on the same draws of rows (see `Moments`).

    Args:
        first: the model in question.
        second: the one it is compared with.
        name: of the score, the larger the better.
        replicates: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        seed: of the resampling.
    """
    draws = [side.resampled(replicates=replicates, seed=seed)[name] for side in (first, second)]
    return _comparison(first.values[name] - second.values[name], draws[0] - draws[1], confidence)


def _resamples(rows: int, replicates: int, seed: int) -> Iterator[Doubles]:
    """[replicates, rows] how often each row was drawn, some replicates at a time."""
    random = np.random.default_rng(seed)
    at_once = max(_DRAWS // max(rows, 1), 1)
    for start in range(0, replicates, at_once):
        some = min(at_once, replicates - start)
        drawn = random.integers(rows, size=(some, rows)) + rows * np.arange(some)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=some * rows).reshape(some, rows).astype(np.float64)
