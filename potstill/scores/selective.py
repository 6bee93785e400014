"""Answering only where a model is sure: accuracy against coverage, and a threshold with a guarantee."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.scores.metrics import Doubles, Flags

# Thresholds that are tested, from the strictest on. They are fixed, so that no row decides which they are, and in steps
# of equal log-odds, since the probabilities of a good model crowd near 1.
_LOG_ODDS = np.arange(140, -61, -1) / 20
THRESHOLDS: tuple[float, ...] = tuple(np.round(1 / (1 + np.exp(-_LOG_ODDS)), 6).tolist())
# Where a sequence of tests begins. One that began at the strictest threshold alone would end there, where a few hundred
# rows leave too few answers for any proof; each further sequence costs the others some of delta.
STARTS: tuple[int, ...] = tuple(np.flatnonzero(np.isin(_LOG_ODDS, [7, 5, 4, 3, 1])).tolist())


@dataclass(frozen=True)
class Curve:
    """Accuracy on the rows of which a model is surest, from few of them to all.

    Attributes:
        coverage: [points] share of the rows that are answered.
        accuracy: [points] share of them that are right.
        aurc: area under the curve of the error against coverage (Geifman et al. 2019); the lower the better.
    """

    coverage: list[float]
    accuracy: list[float]
    aurc: float


def accuracy_coverage(confidence: Doubles, right: Flags, points: int = 101) -> Curve:
    """Draw the accuracy-coverage curve (El-Yaniv & Wiener 2010).

    Rows of equal confidence are answered together, or, within the area, in a random order.

    Args:
        confidence: [rows].
        right: [rows] whether an answer is right.
        points: of the curve at most.
    """
    rows = len(right)
    levels, level, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    hits = np.bincount(level, weights=right, minlength=len(levels))
    expected = np.repeat(hits / sizes, sizes)
    risk = 1 - np.cumsum(expected) / np.arange(1, rows + 1)
    ends = np.cumsum(sizes)
    if len(ends) > points:
        ends = ends[np.unique(np.searchsorted(ends, np.linspace(ends[0], rows, points)))]
    return Curve((ends / rows).tolist(), (1 - risk[ends - 1]).tolist(), float(risk.mean()))


@dataclass(frozen=True)
class Threshold:
    """A confidence from which a model answers.

    Attributes:
        confidence: at least this much is answered.
        rows: number of calibration rows.
        answered: rows with at least this confidence.
        errors: wrong answers among them.
        max_error: upper Clopper-Pearson bound on the error, at the level of one test.
    """

    confidence: float
    rows: int
    answered: int
    errors: int
    max_error: float

    def to_json(self) -> dict[str, Any]:
        """The threshold as plain values."""
        return asdict(self)


def find_threshold(
    confidence: Doubles, right: Flags, *, target: float, delta: float, choices: int = 1
) -> Threshold | None:
    """Find the lowest confidence whose answers are right often enough, with a finite-sample guarantee.

    The chance that the threshold's true share of right answers is below the target is at most delta, over draws of the
    calibration rows. The scores need not be calibrated for that. Each threshold's hypothesis "the error is above
    1 - target" is tested by the Clopper-Pearson bound (Geifman & El-Yaniv 2017). Fixed-sequence testing goes from
    strict to lenient thresholds and stops where a test fails; each of several sequences has its share of delta
    (Angelopoulos et al. 2021, "Learn then Test", section 2; Bates et al. 2021).

    Args:
        confidence: [rows] of rows on which the model was neither trained nor chosen.
        right: [rows] whether an answer is right.
        target: share of the answers that have to be right.
        delta: chance of a miss.
        choices: number of models among which these rows chose; each has its share of delta (union bound).

    Returns:
        None where no threshold passes: too many errors, or too few rows to tell.
    """
    level = delta / (len(STARTS) * choices)
    order = np.sort(confidence)
    wrong = np.concatenate([[0], np.cumsum(~right[np.argsort(confidence, kind="stable")])])
    first = np.searchsorted(order, THRESHOLDS, side="left")
    answered = len(right) - first
    errors = (wrong[-1] - wrong[first]).astype(np.int64)
    bounds = upper_bound(errors, answered, level)
    passed = bounds <= 1 - target
    best: int | None = None
    for start in STARTS:
        failures = np.flatnonzero(~passed[start:])
        end = start + int(failures[0]) if len(failures) else len(THRESHOLDS)
        if end > start:
            best = max(end - 1, best or 0)
    if best is None:
        return None
    return Threshold(THRESHOLDS[best], len(right), int(answered[best]), int(errors[best]), float(bounds[best]))


def upper_bound(events: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], level: float) -> Doubles:
    """Compute upper bounds of shares (Clopper & Pearson 1934); 1 without rows.

    Each is below the true share with a chance of `level` at most.
    """
    from scipy.special import betaincinv

    below_one = events < rows
    bounds: Doubles = np.ones(len(rows))
    bounds[below_one] = betaincinv(events[below_one] + 1, rows[below_one] - events[below_one], 1 - level)
    return bounds
