"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from potstill.config import TaskKind
from potstill.evaluation import metrics
from potstill.evaluation.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of one task, the larger the better.

    Attributes:
        key: its name in metrics.json.
        words: as a sentence calls it.
        unit: what a difference of it is counted in, and how many of them make 1.
        axis: title of a column or an axis in that unit.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
    """

    key: str
    words: str
    unit: tuple[str, int]
    axis: str
    score: Callable[[Floats, Labels], float]

    @property
    def dev_key(self) -> str:
        """Its name in manifests and MLflow where it is the score on dev."""
        return f"dev_{self.key}"

    def shown(self, value: float, sign: str = "") -> str:
        """A value in the unit, for a reader: a percentage to one decimal, another score to three."""
        factor = self.unit[1]
        return f"{factor * value:{sign}.{1 if factor == 100 else 3}f}"


def _accuracy(logits: Floats, labels: Labels) -> float:
    return metrics.accuracy(labels, logits.argmax(axis=1))


def _micro_f1(logits: Floats, labels: Labels) -> float:
    return metrics.micro_f1(labels, logits > 0)


def _r_squared(logits: Floats, labels: Labels) -> float:
    return metrics.r_squared(labels, logits[:, 0])


SCORINGS: dict[TaskKind, Scoring] = {
    "single_label": Scoring("accuracy", "accuracy", ("points of accuracy", 100), "accuracy, %", _accuracy),
    "multi_label": Scoring("micro_f1", "micro F1", ("of micro F1", 1), "micro F1", _micro_f1),
    "regression": Scoring("r2", "R²", ("of R²", 1), "R²", _r_squared),
}


def scoring_of(metrics_json: Mapping[str, Any]) -> Scoring:
    """The score of the task that metrics.json is about."""
    return SCORINGS[metrics_json.get("task", "single_label")]
