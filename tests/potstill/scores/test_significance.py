from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.stats import binomtest

from potstill.scores.significance import adjusted_p_values, bootstrap_p_value, mcnemar_p_value


@given(first=some.integers(0, 200), second=some.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1
    assert mcnemar_p_value(first, second) == pytest.approx(expected)
    assert mcnemar_p_value(first, second) == mcnemar_p_value(second, first)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p_value(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_p_value(0, 0) == 1


def test_a_bootstrap_p_value_goes_with_the_interval() -> None:
    draws = np.random.default_rng(0).normal(1, 0.5, size=20_000)
    p_value = bootstrap_p_value(draws)
    assert p_value == pytest.approx(2 * 0.02275, rel=0.1)
    low, high = np.quantile(draws, [p_value / 2 + 1e-3, 1 - p_value / 2 - 1e-3])
    assert 0 < low < high
    assert bootstrap_p_value(-draws) == p_value
    assert bootstrap_p_value(np.zeros(100)) == 1
    assert bootstrap_p_value(np.ones(99)) == 2 / 100


def test_benjamini_and_hochberg_by_hand() -> None:
    # 1995, section 3.2: their 15 p values, of which four are rejected at 0.05.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p_values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert [q <= 0.05 for q in adjusted_p_values(p_values)] == [True] * 4 + [False] * 11
    assert adjusted_p_values([]) == []
