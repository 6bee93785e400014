"""P values of paired comparisons, and the correction for many of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potstill.scores.metrics import Doubles


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Compute the two-sided p value of the exact McNemar test (McNemar 1947).

    If two models are equally good, a row on which just one of them is right is a toss of a fair coin.

    Args:
        only_first: rows on which the first model is right and the second is wrong.
        only_second: rows on which it is the other way round.
    """
    from scipy.special import bdtr

    # Twice the lower tail of the binomial distribution, which is symmetric; `scipy.stats.binomtest` is far slower.
    return min(2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)), 1.0)


def bootstrap_p_value(differences: Doubles) -> float:
    """Compute the two-sided p value of a difference of 0 from [replicates] resampled differences.

    It is below 1 - c exactly where the percentile interval of level c leaves 0 out (Efron & Tibshirani 1993, ch. 15).
    Adding 1 to both counts keeps it above 0 (Davison & Hinkley 1997, ch. 4).
    """
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(2 * (1 + tail) / (1 + len(differences)), 1.0)


def adjusted_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for the false-discovery rate (Benjamini & Hochberg 1995).

    Among the comparisons whose adjusted value is at most q, the expected share of true null hypotheses is at most q.
    This holds for independent p values and for those with positive regression dependence (Benjamini & Yekutieli 2001).
    """
    from scipy.stats import false_discovery_control

    if not p_values:
        return []
    adjusted: list[float] = false_discovery_control(np.array(p_values), method="bh").tolist()
    return adjusted
