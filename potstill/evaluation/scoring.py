"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.config import TaskKind
from potstill.evaluation import metrics
from potstill.evaluation.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of one task, the larger the better; at most 1, which a reader sees as 100%.

    Attributes:
        key: its name in metrics.json.
        words: as a sentence calls it.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
        answers: what logits [rows, outputs] say, in the form of the labels.
    """

    key: str
    words: str
    score: Callable[[Floats, Labels], float]
    answers: Callable[[Floats], Labels]

    @property
    def dev_key(self) -> str:
        """Its name in manifests and MLflow where it is the score on dev."""
        return f"dev_{self.key}"

    @property
    def axis(self) -> str:
        """Title of a column or an axis."""
        return f"{self.words}, %"


def _accuracy(logits: Floats, labels: Labels) -> float:
    return metrics.accuracy(labels, logits.argmax(axis=1))


def _micro_f1(logits: Floats, labels: Labels) -> float:
    return metrics.micro_f1(labels, logits > 0)


def _r_squared(logits: Floats, labels: Labels) -> float:
    return metrics.r_squared(labels, logits[:, 0])


SCORINGS: dict[TaskKind, Scoring] = {
    "single_label": Scoring("accuracy", "accuracy", _accuracy, lambda logits: logits.argmax(axis=1)),
    "multi_label": Scoring("micro_f1", "micro F1", _micro_f1, lambda logits: (logits > 0).astype(np.int64)),
    "regression": Scoring("r2", "R²", _r_squared, lambda logits: logits[:, 0]),
}


def scoring_of(metrics_json: Mapping[str, Any]) -> Scoring:
    """The score of the task that metrics.json is about."""
    return SCORINGS[metrics_json.get("task", "single_label")]
