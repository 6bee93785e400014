from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from potstill.evaluation.baseline import _affordable, baseline_sentence, beats_baseline, fit_baseline
from potstill.evaluation.naming import BASELINE
from potstill.evaluation.notes import notes
from tests.conftest import generate_rows

ROWS = generate_rows(300)
TEXTS = [text for text, _ in ROWS]
CLASSES = np.array([label == "positive" for _, label in ROWS], dtype=np.int64)


def test_it_learns_classes_and_does_so_again() -> None:
    first, second = (fit_baseline(TEXTS[:200], CLASSES[:200], "single_label", 2) for _ in range(2))
    logits = first.logits(TEXTS[200:])
    assert logits.dtype == np.float32
    assert (logits.argmax(axis=1) == CLASSES[200:]).mean() > 0.95
    assert np.array_equal(logits, second.logits(TEXTS[200:]))
    assert first.parameters == first.weights.size + 2
    assert first.file_bytes > 4 * first.parameters


def test_a_class_that_train_lacks_is_never_the_answer() -> None:
    three = fit_baseline(TEXTS, CLASSES * 2, "single_label", 4)
    assert set(three.logits(TEXTS).argmax(axis=1).tolist()) == {0, 2}
    alone = fit_baseline(TEXTS[:9], np.ones(9, dtype=np.int64), "single_label", 2)
    assert set(alone.logits(TEXTS).argmax(axis=1).tolist()) == {1}


def test_several_labels_are_learned_one_by_one() -> None:
    labels = np.stack([CLASSES, 1 - CLASSES, np.ones_like(CLASSES), np.zeros_like(CLASSES)], axis=1)
    flags = fit_baseline(TEXTS[:200], labels[:200], "multi_label", 4).logits(TEXTS[200:]) > 0
    assert (flags == labels[200:]).mean() > 0.95


def test_numbers_come_from_a_ridge_regression() -> None:
    numbers = (3.0 * CLASSES - 1.0).astype(np.float32)
    found = fit_baseline(TEXTS[:200], numbers[:200], "regression", 1).logits(TEXTS[200:])
    assert found.shape == (100, 1)
    assert np.corrcoef(found[:, 0], numbers[200:])[0, 1] > 0.9


def test_pairs_are_read_and_so_is_a_script_without_blanks() -> None:
    pairs = [(text, "the same") for text in TEXTS]
    assert (fit_baseline(pairs, CLASSES, "single_label", 2).logits(pairs).argmax(axis=1) == CLASSES).mean() > 0.95
    chinese = [("这部电影非常好看" if label else "这部电影太难看了") + str(row) for row, label in enumerate(CLASSES)]
    fitted = fit_baseline(chinese[:200], CLASSES[:200], "single_label", 2)
    assert (fitted.logits(chinese[200:]).argmax(axis=1) == CLASSES[200:]).all()


def test_texts_of_signs_alone_are_told_apart_by_them() -> None:
    signs = [(":-)" if label else ":-(") for label in CLASSES]
    assert (fit_baseline(signs, CLASSES, "single_label", 2).logits(signs).argmax(axis=1) == CLASSES).all()


def test_of_too_many_texts_a_fixed_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.evaluation.baseline.MAX_ROWS", 50)
    texts, kept = _affordable(TEXTS)
    assert len(texts) == len(kept) == 50
    assert texts == [TEXTS[row] for row in kept]
    assert fit_baseline(TEXTS, CLASSES, "single_label", 2).rows == 50


def _metrics(outcome: str, low: float, high: float) -> dict[str, Any]:
    against = {"outcome": outcome, "difference": (low + high) / 2, "low": low, "high": high}
    return {
        "shipped": "int8",
        "models": {"int8": {"accuracy": 0.8}, BASELINE: {"accuracy": 0.79}},
        "comparison": {BASELINE: against},
    }


@pytest.mark.parametrize(
    ("outcome", "low", "high", "words"),
    [
        ("NO DIFFERENCE", -0.01, 0.03, "does not beat TF-IDF"),
        ("LOSES", -0.05, -0.01, "loses to TF-IDF"),
    ],
)
def test_the_end_says_that_the_student_does_not_beat_it(outcome: str, low: float, high: float, words: str) -> None:
    metrics = _metrics(outcome, low, high)
    assert not beats_baseline(metrics)
    sentence = baseline_sentence(metrics)
    assert sentence is not None
    assert words in sentence
    assert "80.0% against 79.0%" in sentence
    assert sentence in notes(metrics)


def test_a_student_that_beats_it_needs_no_note() -> None:
    metrics = _metrics("BEATS", 0.01, 0.03)
    assert beats_baseline(metrics)
    assert notes(metrics) == []
    assert "beats TF-IDF" in str(baseline_sentence(metrics))
    assert beats_baseline({"models": {}, "comparison": {}})
    assert baseline_sentence({"models": {}, "comparison": {}}) is None
