"""Parity of an exported model with the trained one in multi-label classification and regression."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.data.tokens.batches import SPAN, ragged
from potstill.kinds.definitions.kind import AGREEMENT
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.labels.offsets import IGNORED
from potstill.onnx_export.logit_parity import compare


def test_multi_label() -> None:
    trained = np.array([[1.0, -1.0], [2.0, -0.1]], dtype=np.float32)
    exported = np.array([[1.5, -1.0], [2.0, 0.1]], dtype=np.float32)
    found = compare(trained, exported, np.array([[1, 0], [1, 0]]), "multi_label")
    assert (found.max_difference, found.agreement) == (0.5, 0.75)
    numbers = found.as_dict()
    assert numbers["micro_f1_drop"] == pytest.approx(1 - 2 * 2 / 5)
    assert numbers["micro_f1_drop_low"] <= numbers["micro_f1_drop"] <= numbers["micro_f1_drop_high"]
    assert (numbers["agreement_low"], numbers["agreement_high"]) == (0.5, 1.0)


def test_regression() -> None:
    trained = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    found = compare(trained, 2 * trained + 1, np.array([1.0, 2.0, 4.0], dtype=np.float32), "regression")
    assert found.agreement == pytest.approx(1)
    assert found.agreement_high == pytest.approx(1)
    assert found.max_difference == 5
    residual, total = 4 + 9 + 25, float(np.var([1, 2, 4]) * 3)
    assert found.as_dict()["r2_drop"] == pytest.approx(residual / total, rel=1e-6)


def test_scores_and_agreements_of_resamples_are_those_of_the_rows() -> None:
    random = np.random.default_rng(3)
    tags = ragged([np.array(row) for row in ([IGNORED, 1, 2, 0], [IGNORED, 0, 1], [IGNORED, 1])])
    spans = np.array([(1, 2), (0, 0), (2, 3)], dtype=SPAN)
    windows = [ragged([random.normal(size=(length, 2)) for length in (5, 4, 6)]) for _ in "ab"]
    cases = {
        "single_label": (random.integers(3, size=40), [random.normal(size=(40, 3)) for _ in "ab"]),
        "multi_label": (random.integers(2, size=(40, 3)), [random.normal(size=(40, 3)) for _ in "ab"]),
        "regression": (random.normal(size=40), [random.normal(size=(40, 1)) for _ in "ab"]),
        "token_classification": (tags, [random.normal(size=(6, 3)) for _ in "ab"]),
        "question_answering": (spans, windows),
    }
    assert set(cases) == set(KINDS)
    for task, (labels, (first, second)) in cases.items():
        kind = KINDS[task]  # type: ignore[index]
        score = kind.dev_moments(labels, first).values[kind.scoring.key]
        assert score == pytest.approx(kind.scoring.score(first, labels)), task
        agreement = kind.agreement_moments(labels, first, second).values[AGREEMENT]
        assert agreement == pytest.approx(kind.scoring.agreement(first, second)), task
