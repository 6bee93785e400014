"""How far two distributions over the same bins are apart, and how far they would be by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

import numpy as np

# A share of zero would make the index infinite.
_FLOOR = 1e-4


def psi(expected: Sequence[float], actual: Sequence[float]) -> float:
    """Population stability index of two distributions over the same bins: sum of (a - e) ln(a / e), in nats."""
    e = np.maximum(np.asarray(expected, np.float64), _FLOOR)
    a = np.maximum(np.asarray(actual, np.float64), _FLOOR)
    return float(((a - e) * np.log(a / e)).sum())


def psi_of_counts(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The index of counts [bins] against those of a reference [bins], neither of them empty."""
    e, a = np.asarray(reference, np.float64), np.asarray(counts, np.float64)
    return psi((e / e.sum()).tolist(), (a / a.sum()).tolist())


def psi_by_chance(reference: Sequence[int], counts: Sequence[int], confidence: float, *, draws: int = 10_000) -> float:
    """What the index stays under with that confidence where both are samples of one distribution.

    By simulation: pairs of samples of both sizes from the shares of both together (a parametric bootstrap; Efron and
    Tibshirani 1993, ch. 6). Of large samples the index is (1/N + 1/M) times a chi-squared variable (Yurdakul and
    Naranjo 2020, "Statistical properties of the population stability index"); with bins that a small one leaves empty
    it is more.

    Args:
        reference: [bins] counts, M in all.
        counts: [bins] counts, N in all.
        confidence: such as 0.99.
        draws: pairs; always the same ones.
    """
    e, a = np.asarray(reference), np.asarray(counts)
    used = e + a > 0
    if used.sum() < 2:
        return 0.0
    random, shares = np.random.default_rng(0), (e + a)[used] / (e + a).sum()
    then, now = (np.maximum(random.multinomial(side.sum(), shares, draws) / side.sum(), _FLOOR) for side in (e, a))
    return float(np.quantile(((now - then) * np.log(now / then)).sum(axis=1), confidence, method="higher"))


def ks_of_counts(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Two-sample Kolmogorov-Smirnov distance over ordered bins: the largest difference of the shares up to an edge.

    That of the values themselves is at least as large; between the edges nothing is known of them.
    """
    e, a = np.cumsum(np.asarray(reference, np.float64)), np.cumsum(np.asarray(counts, np.float64))
    return float(np.abs(e / e[-1] - a / a[-1]).max())


def ks_by_chance(rows: int, others: int, confidence: float) -> float:
    """What the distance of two samples of one distribution stays under with that confidence.

    The first term of the limiting distribution (Smirnov 1939), which is within 1% of it from 0.8 on; values in bins are
    closer than that, so with them it errs on the side of no difference.

    Args:
        rows: size of one sample.
        others: size of the other.
        confidence: such as 0.99.
    """
    return sqrt(-log((1 - confidence) / 2) / 2 * (rows + others) / (rows * others))
