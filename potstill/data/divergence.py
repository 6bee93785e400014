"""Distances between two distributions over the same bins, and their critical values under chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

import numpy as np

# A share of zero would make the index infinite.
_FLOOR = 1e-4


def psi(expected: Sequence[float], actual: Sequence[float]) -> float:
    """Compute the population stability index of two distributions over bins: sum of (a - e) ln(a / e), in nats."""
    e = np.maximum(np.asarray(expected, np.float64), _FLOOR)
    a = np.maximum(np.asarray(actual, np.float64), _FLOOR)
    return float(((a - e) * np.log(a / e)).sum())


def psi_of_counts(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Compute the index of counts [bins] against those of a reference [bins], neither of them empty."""
    e = np.asarray(reference, np.float64)
    a = np.asarray(counts, np.float64)
    return psi((e / e.sum()).tolist(), (a / a.sum()).tolist())


def critical_psi(reference: Sequence[int], counts: Sequence[int], confidence: float, *, draws: int = 10_000) -> float:
    """Estimate the value below which the index stays with this confidence if both are samples of one distribution.

    The estimate is a parametric bootstrap (Efron and Tibshirani 1993, ch. 6): pairs of samples of both sizes, drawn
    from the pooled shares. For large samples the index is (1/N + 1/M) times a chi-squared variable (Yurdakul and
    Naranjo 2020, "Statistical properties of the population stability index"). It is larger if a small sample leaves
    bins empty.

    Args:
        reference: [bins] counts, M in all.
        counts: [bins] counts, N in all.
        confidence: such as 0.99.
        draws: the number of pairs. The seed is fixed.
    """
    e = np.asarray(reference)
    a = np.asarray(counts)
    used = e + a > 0
    if used.sum() < 2:
        return 0.0
    random = np.random.default_rng(0)
    shares = (e + a)[used] / (e + a).sum()
    then, now = (np.maximum(random.multinomial(side.sum(), shares, draws) / side.sum(), _FLOOR) for side in (e, a))
    return float(np.quantile(((now - then) * np.log(now / then)).sum(axis=1), confidence, method="higher"))


def ks_of_counts(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Compute the Kolmogorov-Smirnov distance over ordered bins: the largest difference of cumulative shares.

    The distance of the values themselves is at least as large, since bins do not show it between their edges.
    """
    e = np.cumsum(np.asarray(reference, np.float64))
    a = np.cumsum(np.asarray(counts, np.float64))
    return float(np.abs(e / e[-1] - a / a[-1]).max())


def critical_ks(rows: int, others: int, confidence: float) -> float:
    """Compute the value below which the distance of two samples of one distribution stays with this confidence.

    This is the first term of the limiting distribution (Smirnov 1939), which is within 1% of it for a confidence of 0.8
    and more. Binned values are closer together, so for them it errs on the side of no difference.

    Args:
        rows: size of one sample.
        others: size of the other sample.
        confidence: such as 0.99.
    """
    return sqrt(-log((1 - confidence) / 2) / 2 * (rows + others) / (rows * others))
