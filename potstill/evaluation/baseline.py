"""What the labels are worth without any encoder: TF-IDF with a linear model, fitted and scored on the student's rows.

A student that does not beat it is not worth its megabytes. Fitting is deterministic and takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.config.base import TaskKind
from potstill.evaluation.naming import BASELINE, MODELS, candidate_of
from potstill.scores.metrics import Floats, Labels
from potstill.scores.scoring import scoring_of

if TYPE_CHECKING:
    from sklearn.pipeline import FeatureUnion

Text = str | tuple[str, str]
# scipy.sparse.csr_matrix, which has no types.
Sparse = Any
# The tasks of whole texts; entities and answers are places in a text.
TASKS: tuple[TaskKind, ...] = ("single_label", "multi_label", "regression")
# Rows and characters that it is fitted on at most, and up to how many characters n-grams of them are affordable.
MOST_ROWS = 200_000
_MOST_CHARACTERS, _FEW_CHARACTERS = 40_000_000, 2_000_000
# A script that is written without blanks has fewer of them than that, and needs n-grams of characters at any size.
_BLANKS = 0.02
# Of more texts, what only one has is left out.
_FEW_TEXTS = 1_000
# Inverse strength of the regularisation: texts are short, so their weights may be large.
_STRENGTH = 4.0
_NEVER = -20.0
_WORD = re.compile(r"\b\w+\b")


@dataclass(frozen=True)
class Baseline:
    """A fitted model.

    Attributes:
        features: texts to sparse [rows, features].
        weights: [features, outputs].
        bias: [outputs].
        rows: it was fitted on.
        of: labelled rows there were.
    """

    features: FeatureUnion
    weights: Floats
    bias: Floats
    rows: int
    of: int

    def logits(self, texts: Sequence[Text]) -> Floats:
        """[rows, outputs] in the form that a classifier of the task gives."""
        counted: Sparse = self.features.transform(_joined(texts))
        found: Floats = (counted @ self.weights + self.bias).astype(np.float32)
        return found

    @property
    def parameters(self) -> int:
        """Weights, counted."""
        return int(self.weights.size + self.bias.size)

    @property
    def file_bytes(self) -> int:
        """Bytes that weights, frequencies and vocabulary take as plain float32 and UTF-8."""
        vocabularies = [set_.vocabulary_ for _, set_ in self.features.transformer_list]
        names = sum(len(name.encode()) + 1 for vocabulary in vocabularies for name in vocabulary)
        return 4 * (self.parameters + len(self.weights)) + names


def fit_baseline(texts: Sequence[Text], labels: Labels, task: TaskKind, outputs: int) -> Baseline:
    """Fit TF-IDF of words and, where that is affordable, of characters, with logistic or ridge regression.

    Args:
        texts: of the train split; of a pair both, joined.
        labels: [rows, ...] gold labels in the task's form.
        task: one of `TASKS`.
        outputs: classes, labels or 1.
    """
    joined, kept = _affordable(_joined(texts))
    labels = labels[kept]
    features = _features(joined)
    counted = features.fit_transform(joined)
    fit = {"single_label": _fit_classes, "multi_label": _fit_labels, "regression": _fit_numbers}[task]
    weights, bias = fit(counted, labels, outputs)
    return Baseline(features, weights.astype(np.float32), bias.astype(np.float32), len(joined), len(texts))


def beaten(metrics: Mapping[str, Any]) -> str | None:
    """Whether the student beats the baseline, in one sentence; None where metrics.json has no baseline."""
    against, baseline = _comparison(metrics), metrics["models"].get(BASELINE)
    if against is None or baseline is None:
        return None
    scoring, candidate = scoring_of(metrics), candidate_of(metrics) or ""
    ours, theirs = (f"{100 * model[scoring.key]:.1f}%" for model in (metrics["models"][candidate], baseline))
    points = [f"{100 * against[part]:+.1f}" for part in ("difference", "low", "high")]
    numbers = f"{ours} against {theirs}, {points[0]} points of {scoring.words} ({points[1]} to {points[2]})"
    if against["outcome"] == "BEATS":
        return f"{MODELS[candidate]} beats TF-IDF with a linear model: {numbers}"
    words = "loses to" if against["outcome"] == "LOSES" else "does not beat"
    return (
        f"{MODELS[candidate]} {words} TF-IDF with a linear model: {numbers}; more labelled rows, more epochs or "
        "another teacher may help, or the task needs no encoder"
    )


def is_beaten(metrics: Mapping[str, Any]) -> bool:
    """Whether the student is better beyond noise, or there is no baseline for the task."""
    against = _comparison(metrics)
    return against is None or against["outcome"] == "BEATS"


def _comparison(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = metrics.get("comparison", {}).get(BASELINE)
    return found


def _joined(texts: Sequence[Text]) -> list[str]:
    return [text if isinstance(text, str) else "\n".join(text) for text in texts]


def _affordable(texts: list[str]) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """The texts to fit on, and their rows: all, or as many as the limits allow, drawn with a fixed seed."""
    order = np.random.default_rng(0).permutation(len(texts))
    lengths = np.cumsum([len(texts[row]) for row in order])
    most = min(MOST_ROWS, max(int(np.searchsorted(lengths, _MOST_CHARACTERS)), 1))
    kept = np.sort(order[:most]) if most < len(texts) else np.arange(len(texts))
    return [texts[row] for row in kept], kept


def _features(texts: list[str]) -> FeatureUnion:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    characters = sum(map(len, texts))
    blanks = sum(text.count(" ") for text in texts) / max(characters, 1)
    shared: dict[str, Any] = {
        "sublinear_tf": True,
        "min_df": 1 if len(texts) < _FEW_TEXTS else 2,
        "dtype": np.float32,
    }
    sets = []
    # Texts of nothing but signs have no words.
    if any(map(_WORD.search, texts)):
        sets.append(("words", TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD.pattern, **shared)))
    if not sets or characters <= _FEW_CHARACTERS or blanks < _BLANKS:
        sets.append(("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **shared)))
    return FeatureUnion(sets)


def _fit_classes(counted: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    """[features, classes] and [classes]; a class that train lacks is never the answer."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((counted.shape[1], outputs)), np.full(outputs, _NEVER)
    classes = np.unique(labels)
    if len(classes) == 1:
        bias[classes] = 0.0
        return weights, bias
    model = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(counted, labels)
    if len(classes) > 2:
        weights[:, classes], bias[classes] = model.coef_.T, model.intercept_
    else:  # one logit: half of it for one class, half against the other
        weights[:, classes] = np.hstack([-model.coef_.T, model.coef_.T]) / 2
        bias[classes] = np.hstack([-model.intercept_, model.intercept_]) / 2
    return weights, bias


def _fit_labels(counted: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    """[features, labels] and [labels]: each label by itself; one that all rows or none have is a constant."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((counted.shape[1], outputs)), np.zeros(outputs)
    for label in range(outputs):
        known = labels[:, label] >= 0
        gold = labels[known, label]
        if len(np.unique(gold)) < 2:
            bias[label] = -_NEVER if len(gold) and gold[0] else _NEVER
            continue
        model = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(counted[known], gold)
        weights[:, label], bias[label] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _fit_numbers(counted: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    from sklearn.linear_model import Ridge

    numbers = labels.astype(np.float64)
    model = Ridge(alpha=1.0, solver="lsqr").fit(counted, numbers)
    return model.coef_.reshape(-1, outputs), np.atleast_1d(model.intercept_)
