"""The baseline without any encoder: TF-IDF with a linear model, fitted and scored on the student's rows.

A student that does not beat it is not worth its megabytes. Fitting is deterministic and takes seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.evaluation.metrics_reading import signed_interval, signed_points
from potstill.evaluation.naming import BASELINE, MODELS, candidate_of
from potstill.evaluation.summary import Answers
from potstill.kinds.definitions.task_kinds import KINDS, kind_in
from potstill.kinds.task_names import TaskKind
from potstill.scores.metrics import Floats, Labels

if TYPE_CHECKING:
    from sklearn.pipeline import FeatureUnion

Text = str | tuple[str, str]
# scipy.sparse.csr_matrix, which has no types.
Sparse = Any
# How many rows and characters it is fitted on at most.
MAX_ROWS = 200_000
_MAX_CHARACTERS = 40_000_000
# Up to how many characters n-grams of characters are affordable.
_FEW_CHARACTERS = 2_000_000
# A script without blanks between words has a smaller share of them, and needs n-grams of characters at any size.
_MIN_BLANKS = 0.02
# With more texts than this, n-grams of a single text are left out.
_FEW_TEXTS = 1_000
# Inverse strength of the regularisation: texts are short, so their weights may be large.
_INVERSE_REGULARISATION = 4.0
# Logit of a class or label that train lacks.
_NEVER = -20.0
_WORD = re.compile(r"\b\w+\b")


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        features: turns texts into sparse [rows, features].
        weights: [features, outputs].
        bias: [outputs].
        rows: how many rows it was fitted on.
        of: how many labelled rows there were.
        fit_seconds: CPU time of the fit.
    """

    features: FeatureUnion
    weights: Floats
    bias: Floats
    rows: int
    of: int
    fit_seconds: float

    def logits(self, texts: Sequence[Text]) -> Floats:
        """Return [rows, outputs] logits, in the form of the task's classifiers."""
        counts: Sparse = self.features.transform(_joined(texts))
        logits: Floats = (counts @ self.weights + self.bias).astype(np.float32)
        return logits

    def answers(self, texts: Sequence[Text], task: TaskKind) -> Answers:
        """Return the answers to texts, which have no temperature."""
        return Answers(self.logits(texts), 1.0, self.parameters, self.file_bytes, task)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return int(self.weights.size + self.bias.size)

    @property
    def file_bytes(self) -> int:
        """Bytes of weights, frequencies and vocabulary as plain float32 and UTF-8."""
        vocabularies = [vectorizer.vocabulary_ for _, vectorizer in self.features.transformer_list]
        names = sum(len(name.encode()) + 1 for vocabulary in vocabularies for name in vocabulary)
        return 4 * (self.parameters + len(self.weights)) + names


def fit_baseline(texts: Sequence[Text], labels: Labels, task: TaskKind, outputs: int) -> Baseline:
    """Fit TF-IDF of words and, where that is affordable, of characters, with logistic or ridge regression.

    Args:
        texts: texts of the train split; those of a pair are joined.
        labels: [rows, ...] gold labels in the task's form.
        task: one that labels whole texts.
        outputs: number of classes or labels; 1 for a regression.
    """
    start = time.process_time()
    joined, rows = _affordable(_joined(texts))
    features = _features(joined)
    counts = features.fit_transform(joined)
    fit = {"class": _fit_classes, "labels": _fit_labels, "number": _fit_numbers}[KINDS[task].form]
    weights, bias = fit(counts, labels[rows], outputs)
    return Baseline(
        features,
        weights.astype(np.float32),
        bias.astype(np.float32),
        len(joined),
        len(texts),
        time.process_time() - start,
    )


def baseline_sentence(metrics: Mapping[str, Any]) -> str | None:
    """Say whether the student beats the baseline; None where metrics.json has no baseline."""
    comparison = _comparison(metrics)
    baseline = metrics["models"].get(BASELINE)
    if comparison is None or baseline is None:
        return None
    scoring = kind_in(metrics).scoring
    candidate = candidate_of(metrics) or ""
    scores = [f"{100 * model[scoring.key]:.1f}%" for model in (metrics["models"][candidate], baseline)]
    interval = signed_interval(comparison["low"], comparison["high"])
    points = f"{signed_points(comparison['difference'])} points of {scoring.words} ({interval})"
    numbers = f"{scores[0]} against {scores[1]}, {points}"
    if comparison["outcome"] == "BEATS":
        return f"{MODELS[candidate]} beats TF-IDF with a linear model: {numbers}"
    words = "loses to" if comparison["outcome"] == "LOSES" else "does not beat"
    return (
        f"{MODELS[candidate]} {words} TF-IDF with a linear model: {numbers}; more labelled rows, more epochs or "
        "another teacher may help, or the task needs no encoder"
    )


def beats_baseline(metrics: Mapping[str, Any]) -> bool:
    """Whether the student is better beyond noise, or there is no baseline for the task."""
    comparison = _comparison(metrics)
    return comparison is None or comparison["outcome"] == "BEATS"


def _comparison(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    comparison: Mapping[str, Any] | None = metrics.get("comparison", {}).get(BASELINE)
    return comparison


def _joined(texts: Sequence[Text]) -> list[str]:
    return [text if isinstance(text, str) else "\n".join(text) for text in texts]


def _affordable(texts: list[str]) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the texts to fit on, and their rows: all, or as many as the limits allow, drawn with a fixed seed."""
    order = np.random.default_rng(0).permutation(len(texts))
    lengths = np.cumsum([len(texts[row]) for row in order])
    count = min(MAX_ROWS, max(int(np.searchsorted(lengths, _MAX_CHARACTERS)), 1))
    rows = np.sort(order[:count]) if count < len(texts) else np.arange(len(texts))
    return [texts[row] for row in rows], rows


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
    vectorizers = []
    # Texts of punctuation alone have no words.
    if any(map(_WORD.search, texts)):
        vectorizers.append(("words", TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD.pattern, **shared)))
    if not vectorizers or characters <= _FEW_CHARACTERS or blanks < _MIN_BLANKS:
        vectorizers.append(("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **shared)))
    return FeatureUnion(vectorizers)


def _fit_classes(counts: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    """Return [features, classes] weights and [classes] bias; a class that train lacks is never the answer."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros((counts.shape[1], outputs))
    bias = np.full(outputs, _NEVER)
    classes = np.unique(labels)
    if len(classes) == 1:
        bias[classes] = 0.0
        return weights, bias
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=1000).fit(counts, labels)
    if len(classes) > 2:
        weights[:, classes] = model.coef_.T
        bias[classes] = model.intercept_
    else:  # one logit: half of it for one class, half against the other
        weights[:, classes] = np.hstack([-model.coef_.T, model.coef_.T]) / 2
        bias[classes] = np.hstack([-model.intercept_, model.intercept_]) / 2
    return weights, bias


def _fit_labels(counts: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    """Return [features, labels] weights and [labels] bias, label by label; a label of all rows or none is constant."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros((counts.shape[1], outputs))
    bias = np.zeros(outputs)
    for label in range(outputs):
        known = labels[:, label] >= 0
        gold = labels[known, label]
        if len(np.unique(gold)) < 2:
            bias[label] = -_NEVER if len(gold) and gold[0] else _NEVER
            continue
        model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=1000).fit(counts[known], gold)
        weights[:, label] = model.coef_[0]
        bias[label] = model.intercept_[0]
    return weights, bias


def _fit_numbers(counts: Sparse, labels: Labels, outputs: int) -> tuple[Floats, Floats]:
    from sklearn.linear_model import Ridge

    numbers = labels.astype(np.float64)
    model = Ridge(alpha=1.0, solver="lsqr").fit(counts, numbers)
    return model.coef_.reshape(-1, outputs), np.atleast_1d(model.intercept_)
