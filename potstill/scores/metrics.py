"""Scores of a classifier from its logits: numpy only, since importing scikit-learn alone costs over a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.errors import ModelError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
# Gold labels in the form that the task gives them.
Labels = npt.NDArray[Any]


def log_softmax(logits: Floats, temperature: float = 1.0) -> Doubles:
    """Compute log probabilities [rows, labels] of logits [rows, labels] divided by a temperature, in float64."""
    scaled = logits.astype(np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    log_probabilities: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probabilities


def require_finite(logits: npt.NDArray[Any], who: str) -> None:
    """Refuse a model that answers NaN or infinity, which averages and comparisons would hide or spread.

    Args:
        logits: [rows, labels]; of questions [windows] objects [tokens, 2], where a row is a token.
        who: name of the model, for the error message.

    Raises:
        ModelError: names `who`, the number of such rows and the first of them.
    """
    if logits.dtype.kind == "O":
        logits = np.concatenate([*logits])
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if len(broken):
        raise ModelError(
            f"{who} answers NaN or infinity on {len(broken)} of {len(logits)} rows (first: row {broken[0]}); "
            "its weights are damaged, so train it again with a lower learning rate or with project.precision fp32"
        )


def accuracy(labels: Ints, predictions: Ints) -> float:
    """Compute the share of rows whose predicted class is the gold class."""
    return float(np.mean(labels == predictions))


# The agreement of two models is the accuracy of one with the other's answers as labels.
agreement = accuracy


def confusion_matrix(labels: Ints, predictions: Ints, classes: int) -> Counts:
    """Count the rows of each pair [gold class, predicted class]."""
    counts: Counts = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    return counts


def share(some: Any, of: Any) -> Doubles:
    """Divide counts by other counts; 0 where there is nothing to divide by."""
    divisor = np.asarray(of, dtype=np.float64)
    quotient: Doubles = np.asarray(some, dtype=np.float64) / np.where(divisor > 0, divisor, 1)
    return quotient


def f1(hits: Any, named: Any) -> Doubles:
    """Compute F1 from the number of hits, and the number of positives in answers and labels together."""
    return share(2 * np.asarray(hits, dtype=np.float64), named)


def micro_f1(labels: Ints, answers: npt.NDArray[np.bool_]) -> float:
    """Compute the F1 of all yes and no answers [rows, labels] together; 0 if neither side has a yes."""
    hits = int((answers & (labels > 0)).sum())
    named = int(answers.sum()) + int((labels > 0).sum())
    return 2 * hits / named if named else 0.0


def r_squared(values: Floats, answers: Floats) -> float:
    """Compute the share of the variance of the gold values [rows] that the answers [rows] explain.

    1 is exact. Answering the mean of the values gives 0. If all values are equal it is 0.
    """
    gold = values.astype(np.float64)
    total = float(np.square(gold - gold.mean()).sum())
    return 1 - float(np.square(gold - answers).sum()) / total if total else 0.0


def macro_f1(labels: Ints, predictions: Ints) -> float:
    """Compute the mean F1 of the classes that occur in labels or predictions, as scikit-learn does."""
    classes = int(max(labels.max(), predictions.max())) + 1
    counts = confusion_matrix(labels, predictions, classes)
    members = counts.sum(axis=0) + counts.sum(axis=1)
    occurring = members > 0
    return float(np.mean(2 * np.diag(counts)[occurring] / members[occurring]))


@dataclass(frozen=True)
class Reliability:
    """Rows grouped by confidence (the probability of the predicted class) into bins of equal width over [0, 1].

    Attributes:
        rows: [bins] rows in each bin.
        confidence: [bins] their mean confidence; 0 for an empty bin.
        accuracy: [bins] their accuracy; 0 for an empty bin.
    """

    rows: Counts
    confidence: Doubles
    accuracy: Doubles

    @property
    def ece(self) -> float:
        """The expected calibration error: mean |accuracy - confidence| of the bins, weighted by their rows."""
        return float(np.sum(self.rows * np.abs(self.accuracy - self.confidence)) / self.rows.sum())


def reliability(labels: Ints, probabilities: Floats, bins: int) -> Reliability:
    """Group rows by confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    Args:
        labels: [rows] gold classes.
        probabilities: [rows, labels], calibrated or not.
        bins: number of bins; bin m holds confidences in ((m - 1) / bins, m / bins].
    """
    confidence = probabilities.max(axis=-1).astype(np.float64)
    correct = probabilities.argmax(axis=-1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows: Counts = np.bincount(index, minlength=bins)
    filled = np.maximum(rows, 1)
    return Reliability(
        rows,
        np.bincount(index, weights=confidence, minlength=bins) / filled,
        np.bincount(index, weights=correct.astype(np.float64), minlength=bins) / filled,
    )


def kl_divergence(teacher: Floats, student: Floats) -> float:
    """Compute the mean of KL(teacher || student) over the rows, in nats, from log probabilities [rows, labels]."""
    return float(np.mean(np.sum(np.exp(teacher) * (teacher - student), axis=-1)))
