"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from potstill.config import TaskKind
from potstill.evaluation import metrics, numbers
from potstill.evaluation.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of one task, the larger the better; at most 1, which a reader sees as 100%.

    Attributes:
        key: its name in metrics.json.
        words: as a sentence calls it.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
        agreement: (one model's logits, another's) -> how alike their answers are: the share of equal classes, or of
            equal yes and no; of numbers their correlation.
    """

    key: str
    words: str
    score: Callable[[Floats, Labels], float]
    agreement: Callable[[Floats, Floats], float]

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


def _same_class(ours: Floats, theirs: Floats) -> float:
    return metrics.agreement(ours.argmax(axis=1), theirs.argmax(axis=1))


def _same_flags(ours: Floats, theirs: Floats) -> float:
    return float(((ours > 0) == (theirs > 0)).mean())


def _correlation(ours: Floats, theirs: Floats) -> float:
    return numbers.correlation(ours[:, 0], theirs[:, 0])


SCORINGS: dict[TaskKind, Scoring] = {
    "single_label": Scoring("accuracy", "accuracy", _accuracy, _same_class),
    "multi_label": Scoring("micro_f1", "micro F1", _micro_f1, _same_flags),
    "regression": Scoring("r2", "R²", _r_squared, _correlation),
}


def scoring_of(metrics_json: Mapping[str, Any]) -> Scoring:
    """The score of the task that metrics.json is about."""
    return SCORINGS[metrics_json.get("task", "single_label")]
