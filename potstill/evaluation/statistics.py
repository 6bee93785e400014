"""How sure a number is: an interval for one accuracy, a verdict for a difference of two."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from potstill.evaluation.metrics import Ints

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
    """A model's accuracy minus another's on the same rows.

    Attributes:
        outcome: BEATS or LOSES where the whole interval is on one side of 0.
        difference: accuracy of the first minus accuracy of the second.
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
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return verdict(float(counts[2] - counts[0]) / rows, float(low), float(high))


def verdict(difference: float, low: float, high: float) -> Comparison:
    """The comparison that a difference and its interval make."""
    outcome: Outcome = "BEATS" if low > 0 else "LOSES" if high < 0 else "NO DIFFERENCE"
    return Comparison(outcome, difference, low, high)
