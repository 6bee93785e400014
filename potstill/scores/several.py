"""Scores of answers with several labels a row, each a yes or no of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from potstill.scores import metrics
from potstill.scores.metrics import Doubles, Floats, Ints, Reliability, f1
from potstill.scores.statistics import Moments

Flags = npt.NDArray[np.bool_]


def moments(labels: Ints, answers: Flags) -> Moments:
    """`micro_f1`, `macro_f1` and `subset_accuracy` of answers [rows, labels] to gold labels of the same shape.

    Micro: all answers counted together. Macro: the mean of each label's F1, over the labels that are yes anywhere.
    Subset accuracy: the share of rows whose every label is right.
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
        each = f1(sums[..., :count], sums[..., count : 2 * count])
        found: Doubles = each.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
        return found

    return Moments(
        columns, {"micro_f1": micro, "macro_f1": macro, "subset_accuracy": lambda sums, rows: sums[..., -1] / rows}
    )


def label_f1(labels: Ints, answers: Flags) -> Doubles:
    """[labels] F1 of each label; 0 for one that is yes nowhere."""
    gold = labels > 0
    return f1((gold & answers).sum(axis=0), gold.sum(axis=0) + answers.sum(axis=0))


def reliability(labels: Ints, probabilities: Doubles, bins: int) -> Reliability:
    """Confidence against accuracy of every answer, yes or no, of all labels together."""
    yes = probabilities.reshape(-1)
    return metrics.reliability((labels > 0).reshape(-1).astype(np.int64), np.stack([1 - yes, yes], axis=1), bins)


def divergence(teacher: Floats, student: Floats) -> float:
    """Mean over the rows of KL(teacher || student) in nats, added up over the labels, from calibrated logits of yes.

    From logits, since a probability that rounds to 1 or 0 would make it infinite.
    """
    theirs, ours = teacher.astype(np.float64), student.astype(np.float64)
    found = np.zeros(len(theirs))
    for sign in (1, -1):
        log_theirs, log_ours = -np.logaddexp(0, -sign * theirs), -np.logaddexp(0, -sign * ours)
        found += (np.exp(log_theirs) * (log_theirs - log_ours)).sum(axis=1)
    return float(found.mean())
