"""Which variant ships: chance rarely decides it, and a loss beyond noise is found."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.config.evaluation_params import Export
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.onnx_export.choice import choose_variant
from potstill.onnx_export.logit_parity import compare

# Rows of dev of the default run.
ROWS = 1013
TRIALS = 300


def _share_of_fp32(random: np.random.Generator, *, worse: float, better: float, limits: Export) -> float:
    """Draw dev splits, and return how often fp32 ships.

    Args:
        random: of the draws.
        worse: share of rows on which only the torch student is right.
        better: share of rows on which only INT8 is right.
        limits: of the choice.
    """
    labels = np.zeros(ROWS, dtype=np.int64)
    answers = np.eye(2, dtype=np.float32)
    fp32 = 0
    for _ in range(TRIALS):
        # 0: both right, 1: only the torch student, 2: only INT8, 3: none of them.
        cell = random.choice(4, size=ROWS, p=[0.85 - worse, worse, better, 0.15 - better])
        parity = compare(answers[cell // 2], answers[cell % 2], labels, replicates=200)
        fp32 += choose_variant(parity, limits, KINDS["single_label"].scoring)[0] == "fp32"
    return fp32 / TRIALS


@pytest.mark.slow
def test_chance_hardly_ever_ships_fp32() -> None:
    random = np.random.default_rng(1)
    # INT8 is as good as the student and differs on 1% of the rows: a point estimate refused one of twelve.
    assert _share_of_fp32(random, worse=0.005, better=0.005, limits=Export()) <= 0.01
    # It loses just what it may.
    assert _share_of_fp32(random, worse=0.01, better=0.005, limits=Export()) <= 0.05


@pytest.mark.slow
def test_agreement_at_its_limit_hardly_ever_ships_fp32() -> None:
    random = np.random.default_rng(2)
    limits = Export(int8_max_accuracy_drop=1.0)
    assert _share_of_fp32(random, worse=0.01, better=0.01, limits=limits) <= 0.05
    assert _share_of_fp32(random, worse=0.03, better=0.03, limits=limits) >= 0.95


@pytest.mark.slow
def test_a_planted_loss_is_found() -> None:
    limits = Export(int8_min_agreement=0.0)
    random = np.random.default_rng(3)
    assert _share_of_fp32(random, worse=0.035, better=0.005, limits=limits) >= 0.95


def test_the_reason_names_loss_interval_and_limit() -> None:
    labels = np.zeros(100, dtype=np.int64)
    right, wrong = np.eye(2, dtype=np.float32)[labels], np.eye(2, dtype=np.float32)[1 - labels]
    half = np.where(np.arange(100)[:, None] < 50, right, wrong)
    scoring = KINDS["single_label"].scoring
    variant, why = choose_variant(compare(right, half, labels), Export(), scoring)
    assert variant == "fp32"
    assert why.startswith("INT8 loses 50.00 points of dev accuracy (95% interval 4")
    assert why.endswith("beyond noise more than the limit of 0.50 (export.int8_max_accuracy_drop)")
    variant, why = choose_variant(compare(right, half, labels), Export(int8_max_accuracy_drop=1.0), scoring)
    assert variant == "fp32"
    assert "(export.int8_min_agreement)" in why
    variant, why = choose_variant(compare(right, right, labels), Export(), scoring)
    assert variant == "int8"
    assert why == "it agrees with the student on 100.00% of dev and loses 0.00 points of dev accuracy " + (
        "(95% interval 0.00 to 0.00)"
    )
