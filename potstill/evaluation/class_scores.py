"""Precision and recall of each class, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from potstill.evaluation.summary import Answers, Gold
from potstill.scores.metrics import Counts, confusion_matrix, f1
from potstill.scores.statistics import wilson_interval


def class_scores(
    gold: Gold, models: Mapping[str, Answers], names: Sequence[str | int], confidence: float
) -> dict[str, Any]:
    """Compute `classes` of metrics.json: each class's gold number, and each model's precision, recall and F1.

    Precision and recall have Wilson's interval, and are null where nothing was predicted or nothing is gold.

    Args:
        gold: gold labels in the task's form.
        models: name -> answers.
        names: of the model's outputs.
        confidence: level of the intervals.

    Returns:
        class -> its numbers; empty for numbers and answers, which have no classes.
    """
    kind = next(iter(models.values())).kind
    if kind.form not in ("class", "labels", "entities"):
        return {}
    counts = {name: _counts(gold, answers, len(names)) for name, answers in models.items()}
    classes = {}
    for index, label in enumerate(kind.class_names(names)):
        scores = {
            name: _scores(right[index], predicted[index], gold_counts[index], confidence)
            for name, (right, predicted, gold_counts) in counts.items()
        }
        gold_count = next(iter(counts.values()))[2][index]
        classes[str(label)] = {"gold": int(gold_count), "models": scores}
    return classes


def _counts(gold: Any, answers: Answers, outputs: int) -> tuple[Counts, Counts, Counts]:
    """Count, for each class, the right answers, all answers, and the gold labels."""
    if answers.kind.form == "class":
        matrix = confusion_matrix(gold, answers.predictions, outputs)
        return np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    if answers.kind.form == "labels":
        predicted = answers.logits > 0
        applies = gold > 0
        return (predicted & applies).sum(axis=0), predicted.sum(axis=0), applies.sum(axis=0)
    entities = answers.view(gold).counts(answers.logits.argmax(axis=1))
    return entities.right.sum(axis=0), entities.predicted.sum(axis=0), entities.gold.sum(axis=0)


def _scores(right: int, predicted: int, gold: int, confidence: float) -> dict[str, float | None]:
    scores: dict[str, float | None] = {"f1": float(f1(right, predicted + gold))}
    for name, total in (("precision", predicted), ("recall", gold)):
        low, high = wilson_interval(int(right), int(total), confidence) if total else (None, None)
        scores |= {name: float(right / total) if total else None, f"{name}_low": low, f"{name}_high": high}
    return scores
