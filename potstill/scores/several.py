"""Scores of answers with several labels a row, where each label is a yes or no answer."""

from __future__ import annotations

import numpy as np

from potstill.scores import metrics
from potstill.scores.metrics import Doubles, Flags, Floats, Ints, Reliability, f1
from potstill.scores.statistics import Moments


def moments(labels: Ints, answers: Flags) -> Moments:
    """Compute `micro_f1`, `macro_f1` and `subset_accuracy` of answers [rows, labels] to gold labels of that shape.

    Micro counts all answers together. Macro is the mean F1 of the labels that are yes in some row. Subset accuracy is
    the share of rows whose labels are all right.
    """
    gold = labels > 0
    count = gold.shape[1]
    hits, named = gold & answers, gold.astype(np.int64) + answers
    exact = (gold == answers).all(axis=1, keepdims=True)
    columns = np.concatenate([hits, named, exact], axis=1).astype(np.float64)

    def micro(sums: Doubles, rows: int) -> Doubles:
        return f1(sums[..., :count].sum(axis=-1), sums[..., count : 2 * count].sum(axis=-1))

    def macro(sums: Doubles, rows: int) -> Doubles:
        present = sums[..., count : 2 * count] > 0
        by_label = f1(sums[..., :count], sums[..., count : 2 * count])
        score: Doubles = by_label.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
        return score

    return Moments(
        columns, {"micro_f1": micro, "macro_f1": macro, "subset_accuracy": lambda sums, rows: sums[..., -1] / rows}
    )


def label_f1(labels: Ints, answers: Flags) -> Doubles:
    """Compute the F1 of each label [labels]; 0 for a label that is yes in no row."""
    gold = labels > 0
    return f1((gold & answers).sum(axis=0), gold.sum(axis=0) + answers.sum(axis=0))


def reliability(labels: Ints, probabilities: Doubles, bins: int) -> Reliability:
    """Group the yes and no answers of all labels together by confidence."""
    yes = probabilities.reshape(-1)
    return metrics.reliability((labels > 0).reshape(-1).astype(np.int64), np.stack([1 - yes, yes], axis=1), bins)


def divergence(teacher: Floats, student: Floats) -> float:
    """Compute the mean of KL(teacher || student) over the rows, in nats, summed over the labels.

    Takes calibrated logits of yes: a probability that rounds to 1 or 0 would make the divergence infinite.
    """
    sums = np.zeros(len(teacher))
    for sign in (1, -1):
        log_teacher = -np.logaddexp(0, -sign * teacher.astype(np.float64))
        log_student = -np.logaddexp(0, -sign * student.astype(np.float64))
        sums += (np.exp(log_teacher) * (log_teacher - log_student)).sum(axis=1)
    return float(sums.mean())
