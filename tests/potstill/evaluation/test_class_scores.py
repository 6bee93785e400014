from __future__ import annotations

import numpy as np
import pytest

from potstill.evaluation.class_scores import class_scores
from potstill.evaluation.summary import Answers
from potstill.scores.statistics import wilson_interval


def test_precision_and_recall_by_hand() -> None:
    gold = np.array([0, 0, 0, 1, 1, 2])
    answers = Answers(np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 0, 1]], 1.0, 1, 1)
    classes = class_scores(gold, {"int8": answers}, ["a", "b", "c", "d"], 0.95)
    scores = {name: (part["gold"], part["models"]["int8"]) for name, part in classes.items()}
    count, first = scores["a"]
    assert count == 3
    assert (first["precision"], first["recall"], first["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (first["precision_low"], first["precision_high"]) == wilson_interval(2, 3, 0.95)
    second = scores["b"][1]
    assert (second["precision"], second["recall"]) == pytest.approx((1 / 3, 1 / 2))
    assert (scores["c"][1]["precision"], scores["c"][1]["recall"]) == (None, 0.0)
    assert scores["d"][1]["recall_low"] is None


def test_each_of_several_labels_is_a_class() -> None:
    answers = Answers(np.array([[1.0, -1.0], [1.0, 1.0]], dtype=np.float32), 1.0, 1, 1, "multi_label")
    classes = class_scores(np.array([[1, 1], [0, 1]]), {"int8": answers}, ["late", "rude"], 0.95)
    assert classes["late"]["models"]["int8"]["precision"] == 0.5
    assert classes["rude"]["models"]["int8"]["recall"] == 0.5


def test_numbers_have_no_classes() -> None:
    answers = Answers(np.ones((2, 1), dtype=np.float32), 1.0, 1, 1, "regression")
    assert class_scores(np.ones(2), {"int8": answers}, ["score"], 0.95) == {}
