"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from potstill.config import TaskKind
from potstill.evaluation import metrics
from potstill.evaluation.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of one task, the larger the better.

    Attributes:
        key: its name in metrics.json.
        words: as a sentence calls it.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
    """

    key: str
    words: str
    score: Callable[[Floats, Labels], float]

    @property
    def dev_key(self) -> str:
        """Its name in manifests and MLflow where it is the score on dev."""
        return f"dev_{self.key}"


SCORINGS: dict[TaskKind, Scoring] = {
    "single_label": Scoring(
        "accuracy", "accuracy", lambda logits, labels: metrics.accuracy(labels, logits.argmax(axis=1))
    ),
    "multi_label": Scoring("micro_f1", "micro F1", lambda logits, labels: metrics.micro_f1(labels, logits > 0)),
    "regression": Scoring("r2", "R²", lambda logits, labels: metrics.r_squared(labels, logits[:, 0])),
}
