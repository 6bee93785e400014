from __future__ import annotations

import numpy as np
import pytest

from potstill.scores import numbers


def test_a_resample_of_equal_numbers_scores_0_whatever_rounding_leaves_of_their_spread() -> None:
    gold = np.array([3.0] * 58 + [4.0] * 2, dtype=np.float32)  # a resample in seven has no 4
    answers = gold + np.random.default_rng(0).normal(0, 0.3, 60).astype(np.float32)
    moments = numbers.moments(gold, answers)
    draws = moments.resampled(replicates=2000, seed=1)
    constant = draws["spearman"] == 0
    assert 0.05 < constant.mean() < 0.25
    assert (draws["r2"][constant] == 0).all()
    assert (draws["pearson"][constant] == 0).all()
    low, high = moments.intervals(replicates=2000, confidence=0.95, seed=1)["r2"]
    assert -10 < low < moments.values["r2"] < high < 1


@pytest.mark.parametrize("bias", [0.0, 1e3])
def test_correlations_do_not_depend_on_a_bias(bias: float) -> None:
    random = np.random.default_rng(2)
    gold = random.normal(0, 1, 300)
    answers = gold + random.normal(0, 0.5, 300)
    expected = np.corrcoef(gold, answers)[0, 1]
    assert numbers.moments(gold, answers + bias).values["pearson"] == pytest.approx(expected, abs=1e-6)
