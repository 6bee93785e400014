"""How sure a number is: an interval for one accuracy, a verdict for a difference of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from potstill.scores.metrics import Doubles, Ints
from potstill.scores.resampling import resampled_sums

Outcome = Literal["BEATS", "NO DIFFERENCE", "LOSES"]


def wilson_interval(correct: int, rows: int, confidence: float) -> tuple[float, float]:
    """Compute the score interval of a share (Wilson 1927).

    It holds its level near 0 and 1, where the normal interval leaves [0, 1].

    Raises:
        ValueError: no rows, or more correct ones than rows.
    """
    if not 0 <= correct <= rows or rows == 0:
        raise ValueError(f"{correct} correct of {rows} rows")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / rows
    spread = z * z / rows
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
    """Compare two models' accuracy on the same rows; see `bootstrap`.

    Args:
        labels: [rows] gold classes.
        first: [rows] classes predicted by the model in question; [seeds, rows] for several of its training seeds.
        second: the same of the one it is compared with.
        replicates: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        seed: of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: no rows, or arrays of different length.
    """
    first = np.atleast_2d(first)
    second = np.atleast_2d(second)
    if not len(labels) or first.shape != second.shape or first.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels, {first.shape} and {second.shape} predictions [seeds, rows]")
    gains = (first == labels).astype(np.int64) - (second == labels).astype(np.int64)
    return bootstrap(gains, replicates=replicates, confidence=confidence, seed=seed)


def bootstrap(gains: Ints, *, replicates: int, confidence: float, seed: int) -> Comparison:
    """Compute the mean of gains that belong to rows and to training seeds, with its percentile interval.

    Rows and seeds are resampled independently of each other, each row with all its seeds (Owen 2007, "The pigeonhole
    bootstrap"; Sellam et al. 2022, "The MultiBERTs", section 4). Of n seeds n - 1 are drawn: a resample of n has a
    variance that is (n - 1) / n of the right one (Rao & Wu 1988), half of it at two seeds. With one seed the rows alone
    are resampled (Efron & Tibshirani 1993, ch. 13), so the noise of training is not in the interval.

    Rows with the same gains are one category of a multinomial: exact, and without a loop over replicates.

    Args:
        gains: [seeds, rows] what a row adds to the first model's score, minus what it adds to the second's.
        replicates: bootstrap resamples.
        confidence: level of the interval.
        seed: of the resampling.
    """
    seeds, rows = gains.shape
    kinds, counts = np.unique(gains, axis=1, return_counts=True)
    random = np.random.default_rng(seed)
    means = random.multinomial(rows, counts / rows, size=replicates) @ kinds.T / rows
    if seeds > 1:
        means = means * random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=replicates) / (seeds - 1)
    return comparison(int(gains.sum()) / gains.size, means.sum(axis=1), confidence)


def comparison(difference: float, differences: Doubles, confidence: float) -> Comparison:
    """Compare by the percentile interval of [replicates] resampled differences."""
    low, high = _interval(differences, confidence)
    outcome: Outcome = "NO DIFFERENCE"
    if low > 0:
        outcome = "BEATS"
    elif high < 0:
        outcome = "LOSES"
    return Comparison(outcome, difference, low, high)


def _interval(values: Doubles, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# --- scores that are no share of rows ---------------------------------------------------------------------------------


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
        """Compute [replicates] values of each score on rows drawn with replacement; the same for the same seed."""
        (sums,) = resampled_sums([self.columns], replicates=replicates, seed=seed)
        return {name: score(sums, len(self.columns)) for name, score in self.scores.items()}

    def of(self, rows: npt.NDArray[Any]) -> Moments:
        """Return the sums of some of the rows, given as flags or as indices."""
        return Moments(self.columns[rows], self.scores)

    def intervals(self, *, replicates: int, confidence: float, seed: int) -> dict[str, tuple[float, float]]:
        """Compute the percentile bootstrap interval of each score (Efron & Tibshirani 1993, ch. 13)."""
        resamples = self.resampled(replicates=replicates, seed=seed)
        return {name: _interval(values, confidence) for name, values in resamples.items()}

    def with_intervals(self, *, replicates: int, confidence: float) -> dict[str, float]:
        """Compute each score with its interval. The seed is fixed, so that numbers of projects can be compared."""
        scores: dict[str, float] = {}
        intervals = self.intervals(replicates=replicates, confidence=confidence, seed=0)
        for name, value in self.values.items():
            low, high = intervals[name]
            scores |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return scores


def compare_scores(
    first: Sequence[Moments], second: Sequence[Moments], name: str, *, replicates: int, confidence: float, seed: int
) -> Comparison:
    """Compare a score of two models on the same rows: all are scored on the same draws of rows (see `Moments`).

    Args:
        first: the model in question, of each of its training seeds; the score is the mean over them.
        second: the one it is compared with, of the same seeds.
        name: of the score, the larger the better.
        replicates: bootstrap resamples; of n seeds n - 1 are drawn with each (see `bootstrap`).
        confidence: level of the interval, such as 0.95.
        seed: of the resampling.

    Raises:
        ValueError: no seeds, or not the same number of them.
    """
    differences = score_differences(first, second, name, replicates=replicates, seed=seed)
    gain = float(np.mean([a.values[name] - b.values[name] for a, b in zip(first, second, strict=True)]))
    return comparison(gain, differences, confidence)


def ratio_interval(
    first: Moments, second: Moments, name: str, *, replicates: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Compute the percentile interval of the ratio of two models' scores on the same draws of rows.

    A draw on which the second score is not above 0 counts as a ratio of 0: it proves nothing of the first.

    Args:
        first: the model in question.
        second: the model whose score is the denominator.
        name: of the score, the larger the better.
        replicates: bootstrap resamples.
        confidence: level of the interval, such as 0.95.
        seed: of the resampling.
    """
    sums = resampled_sums([first.columns, second.columns], replicates=replicates, seed=seed)
    numerator, denominator = (
        model.scores[name](totals, len(model.columns)) for model, totals in zip((first, second), sums, strict=True)
    )
    ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return _interval(ratios, confidence)


def score_differences(
    first: Sequence[Moments], second: Sequence[Moments], name: str, *, replicates: int, seed: int
) -> Doubles:
    """Compute [replicates] differences of a score of two models on resampled rows; see `compare_scores`.

    Raises:
        ValueError: no seeds, or not the same number of them.
    """
    seeds = len(first)
    if not seeds or seeds != len(second):
        raise ValueError(f"{seeds} and {len(second)} training seeds")
    models = [*first, *second]
    sums = resampled_sums([model.columns for model in models], replicates=replicates, seed=seed)
    scores = [model.scores[name](totals, len(model.columns)) for model, totals in zip(models, sums, strict=True)]
    draws: Doubles = np.array(scores[:seeds]) - np.array(scores[seeds:])
    if seeds == 1:
        return draws.reshape(-1)
    random = np.random.default_rng([seed, seeds])
    counts = random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=replicates)
    means: Doubles = (draws * counts.T).sum(axis=0) / (seeds - 1)
    return means
