from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, kstwobign

from potstill.data.divergence import critical_ks, critical_psi, ks_of_counts, psi, psi_of_counts


def test_the_index_of_counts_is_that_of_their_shares() -> None:
    assert psi_of_counts([10, 30], [2, 2]) == pytest.approx(psi([0.25, 0.75], [0.5, 0.5]))
    assert psi_of_counts([5, 5], [500, 500]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("bins", "size"), [(2, 800), (20, 800), (20, 40)])
def test_two_samples_of_one_distribution_exceed_the_critical_value_as_often_as_expected(bins: int, size: int) -> None:
    random, over = np.random.default_rng(3), 0
    shares = random.dirichlet(np.full(bins, 20.0))
    for _ in range(600):
        reference, counts = (random.multinomial(rows, shares).tolist() for rows in (1500, size))
        over += psi_of_counts(reference, counts) > critical_psi(reference, counts, 0.95, draws=1000)
    assert over / 600 == pytest.approx(0.05, abs=0.03)


def test_the_critical_index_of_large_samples_is_chi_squared() -> None:
    actual = critical_psi([5000] * 10, [3000] * 10, 0.99)
    assert actual == pytest.approx((1 / 50_000 + 1 / 30_000) * chi2.ppf(0.99, 9), rel=0.05)


def test_one_bin_that_all_share_has_no_index() -> None:
    assert critical_psi([0, 7], [0, 9], 0.99) == psi_of_counts([0, 7], [0, 9]) == 0


def test_the_distance_is_the_largest_difference_of_the_shares_up_to_an_edge() -> None:
    assert ks_of_counts([1, 1, 2], [2, 1, 1]) == 0.25
    assert ks_of_counts([10, 0], [0, 3]) == 1
    assert ks_of_counts([3, 4], [6, 8]) == 0


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_the_critical_distance_is_kolmogorovs(confidence: float) -> None:
    expected = kstwobign.ppf(confidence) * ((600 + 900) / (600 * 900)) ** 0.5
    assert critical_ks(600, 900, confidence) == pytest.approx(expected, rel=0.01)
