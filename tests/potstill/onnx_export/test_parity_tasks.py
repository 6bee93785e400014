"""Parity of an exported model with the trained one in multi-label classification and regression."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.onnx_export.logit_parity import compare


def test_multi_label() -> None:
    trained = np.array([[1.0, -1.0], [2.0, -0.1]], dtype=np.float32)
    exported = np.array([[1.5, -1.0], [2.0, 0.1]], dtype=np.float32)
    found = compare(trained, exported, np.array([[1, 0], [1, 0]]), "multi_label")
    assert found.as_dict() == {
        "max_difference": 0.5,
        "agreement": 0.75,
        "micro_f1_drop": pytest.approx(1 - 2 * 2 / 5),
    }


def test_regression() -> None:
    trained = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    found = compare(trained, 2 * trained + 1, np.array([1.0, 2.0, 4.0], dtype=np.float32), "regression")
    assert found.agreement == pytest.approx(1)
    assert found.max_difference == 5
    residual, total = 4 + 9 + 25, float(np.var([1, 2, 4]) * 3)
    assert found.as_dict()["r2_drop"] == pytest.approx(residual / total, rel=1e-6)
