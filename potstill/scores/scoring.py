"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.config.base import TaskKind
from potstill.data.tokens.offsets import IGNORED, flat_labels
from potstill.scores import metrics, numbers
from potstill.scores.entities import count_entities
from potstill.scores.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of one task, the larger the better; at most 1, which a reader sees as 100%.

    Attributes:
        key: its name in metrics.json.
        words: as a sentence calls it.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
        agreement: (one model's logits, another's) -> how alike their answers are: the share of equal classes, or of
            equal yes and no; of numbers their correlation; of questions, of windows with the same span.
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


def entity_f1(logits: Floats, labels: Labels) -> float:
    """Micro F1 by entity over the tokens that are asked.

    Args:
        logits: [answers, classes].
        labels: [texts] objects, the token labels of each (`TokenDataset.whole_labels`).
    """
    flat = flat_labels(labels)
    asked = np.array([(row != IGNORED).sum() for row in labels], dtype=np.int64)
    return count_entities(flat[flat != IGNORED], logits.argmax(axis=1), asked, logits.shape[1] // 2).f1


def token_span_f1(logits: Labels, labels: Labels) -> float:
    """Mean over the windows of the F1 of tokens in the predicted and in the gold span.

    The predicted span is the best that does not end before it starts, or none: the first token, which is also the gold
    of a window without the answer. A measure to select weights by; `evaluation.answers` judges what users read.

    Args:
        logits: [rows] objects, each [tokens, 2].
        labels: [rows] SPAN.
    """
    return float(
        np.mean(
            [_overlap(best_tokens(row), (gold["start"], gold["end"])) for row, gold in zip(logits, labels, strict=True)]
        )
    )


def best_tokens(logits: Floats) -> tuple[int, int]:
    """First and last token of the best span of [tokens, 2] logits; the first token alone is no answer."""
    starts, ends = logits[1:, 0], logits[1:, 1]
    # For each end the best start before it.
    best = np.maximum.accumulate(starts)
    end = int(np.argmax(best + ends))
    if best[end] + ends[end] <= logits[0].sum():
        return 0, 0
    return int(np.argmax(starts[: end + 1])) + 1, end + 1


def _overlap(ours: tuple[int, int], gold: tuple[int, int]) -> float:
    shared = min(ours[1], gold[1]) - max(ours[0], gold[0]) + 1
    return 2 * max(shared, 0) / (ours[1] - ours[0] + gold[1] - gold[0] + 2)


def _same_class(ours: Floats, theirs: Floats) -> float:
    return metrics.agreement(ours.argmax(axis=1), theirs.argmax(axis=1))


def _same_flags(ours: Floats, theirs: Floats) -> float:
    return float(((ours > 0) == (theirs > 0)).mean())


def _correlation(ours: Floats, theirs: Floats) -> float:
    return numbers.correlation(ours[:, 0], theirs[:, 0])


def _same_spans(ours: Labels, theirs: Labels) -> float:
    return float(np.mean([best_tokens(one) == best_tokens(other) for one, other in zip(ours, theirs, strict=True)]))


SCORINGS: dict[TaskKind, Scoring] = {
    "single_label": Scoring("accuracy", "accuracy", _accuracy, _same_class),
    "multi_label": Scoring("micro_f1", "micro F1", _micro_f1, _same_flags),
    "regression": Scoring("r2", "R²", _r_squared, _correlation),
    "token_classification": Scoring("f1", "entity F1", entity_f1, _same_class),
    "question_answering": Scoring("f1", "answer F1", token_span_f1, _same_spans),
}


def scoring_of(metrics_json: Mapping[str, Any]) -> Scoring:
    """The score of the task that metrics.json is about."""
    return SCORINGS[metrics_json.get("task", "single_label")]
