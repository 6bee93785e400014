"""One class of several: a softmax over the outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from potstill.errors import LabelError
from potstill.kinds.definitions.kind import Head, Kind, Names, Side, share_moments
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import label_set, normal_label
from potstill.scores import metrics
from potstill.scores.calibration import fit_temperature
from potstill.scores.metrics import Doubles, Flags, Floats, Ints, Labels, Reliability
from potstill.scores.probabilities import softmax
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Comparison, Moments, paired_bootstrap, wilson_interval

if TYPE_CHECKING:
    import pyarrow as pa

# Separators that people write between several labels in one cell.
_BETWEEN = ("|", ";", ",", "#", "/", "+", "&")


def _accuracy(logits: Floats, labels: Labels) -> float:
    return metrics.accuracy(labels, logits.argmax(axis=1))


def same_class(first: Floats, second: Floats) -> float:
    """Compute the share of rows on which two models predict the same class, from logits [rows, classes]."""
    return metrics.agreement(first.argmax(axis=1), second.argmax(axis=1))


class SoftmaxKind(Kind):
    """Base of the tasks whose answers, or parts of them, are one class of several."""

    def distance(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute KL(teacher || student) of the probabilities, in nats."""
        log_probabilities = map(metrics.log_softmax, (teacher, student), temperatures)
        return {"kl": metrics.kl_divergence(*log_probabilities)}

    def probabilities(self, logits: Floats, temperature: float) -> Doubles:
        """Compute softmax(logits / temperature) (Guo et al. 2017)."""
        return softmax(logits, temperature)

    def evaluated_probabilities(self, logits: Any, temperature: float) -> Doubles:
        """Compute them as the exponential of the log softmax, from which the divergence is computed."""
        return np.exp(metrics.log_softmax(logits, temperature))


class SingleLabel(SoftmaxKind):
    """One class of several."""

    name: ClassVar[TaskKind] = "single_label"
    short_name = "classes"
    form = "class"
    # Its name from the time when it was the only task.
    card_name = "classification"
    head = Head("sequence classifier", "AutoModelForSequenceClassification", "ForSequenceClassification")
    scoring = Scoring("accuracy", "accuracy", _accuracy, same_class)
    table_columns: ClassVar[tuple[tuple[str, str], ...]] = (("macro\nF1", "macro_f1"), ("\nECE", "ece"))
    figures = ("reliability", "confusions")
    label_kinds: ClassVar[tuple[str, ...]] = ("column", "sign", "order")
    unfit_perturbations = ()
    limits = ("min_accuracy", "min_macro_f1", "max_ece")

    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        return names_of_classes(set(values), declared)

    def classes(self, value: Any) -> tuple[str, ...]:
        return (value,)

    def stored_classes(self, value: Any, labels: Names) -> tuple[str, ...]:
        return (str(labels[value]),)

    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        return count_classes(values, labels)

    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        """Make a column of class indices."""
        import pyarrow as pa

        index = {normal_label(label): at for at, label in enumerate(labels)}
        return pa.array([None if value is None else index[value] for value in values], pa.int64())

    def token_column(self, outputs: int) -> pa.DataType:
        import pyarrow as pa

        return pa.int64()

    def moments(self, gold: Any, logits: Any) -> Moments:
        right = (logits.argmax(axis=1) == gold).astype(np.float64)[:, None]
        return Moments(right, {"accuracy": lambda sums, rows: sums[..., 0] / rows})

    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        return share_moments(first.argmax(axis=1) == second.argmax(axis=1))

    def scores(self, gold: Any, logits: Any, *, replicates: int, confidence: float) -> dict[str, float]:
        """Compute the accuracy with its exact interval, and macro F1."""
        predictions: Ints = logits.argmax(axis=1)
        low, high = wilson_interval(int((predictions == gold).sum()), len(gold), confidence)
        return {
            "accuracy": metrics.accuracy(gold, predictions),
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": metrics.macro_f1(gold, predictions),
        }

    def compare(self, first: Side, second: Side, **options: Any) -> tuple[Comparison, list[float]]:
        """Compare accuracies, counted row by row."""
        gold = first[0][0]
        first_classes, second_classes = (
            np.stack([logits.argmax(axis=1) for _, logits in side]) for side in (first, second)
        )
        gains = (first_classes == gold).sum(axis=1) - (second_classes == gold).sum(axis=1)
        comparison = paired_bootstrap(gold, first_classes, second_classes, **options)
        return comparison, [int(gain) / len(gold) for gain in gains]

    def temperature(self, logits: Floats, labels: Labels) -> float | None:
        """Fit T of softmax(logits / T)."""
        return fit_temperature(logits, labels.astype(np.int64))

    def reliability(self, gold: Any, probabilities: Doubles, bins: int) -> Reliability:
        """Compare the confidence in the most probable class with accuracy."""
        return metrics.reliability(gold, probabilities, bins)

    def confidence(self, gold: Any, logits: Any, temperature: float) -> tuple[Doubles, Flags]:
        return self.evaluated_probabilities(logits, temperature).max(axis=1), logits.argmax(axis=1) == gold

    def answers(self, logits: Floats, labels: Names) -> list[Any]:
        """Return the most probable class of each row."""
        return [labels[index] for index in logits.argmax(axis=1)]


def count_classes(values: Sequence[Any], labels: Names) -> dict[str, Any]:
    """Count how often each class is among the values, which may hold None."""
    counts = Counter(values)
    classes = {str(label): counts[normal_label(label)] for label in labels}
    return {"classes": classes if any(classes.values()) else {}}


def names_of_classes(keys: Set[str], declared: Names | None) -> list[str | int]:
    """Order the classes as the outputs of the model.

    Raises:
        LabelError: none are declared, and a name in the data may stand for no label, or for several.
    """
    if declared is None:
        _ask_about_minus_one(keys)
        _ask_about_several(keys)
    return label_set(keys, declared)


def _ask_about_minus_one(keys: Set[str]) -> None:
    """Refuse -1 among classes from 0 on, where it mostly stands for "no label", until params say what it is."""
    others = sorted(set(keys) - {"-1"})
    if "-1" in keys and all(key.isdecimal() for key in others) and others != ["1"]:
        raise LabelError(
            f"the label -1 stands next to {', '.join(others[:5])}, and often means that a row has none; set "
            f"prepare.label.missing to [-1], or prepare.labels to [-1, {', '.join(others[:5])}] if it is a class"
        )


def _ask_about_several(keys: Set[str]) -> None:
    """Refuse a name that joins others, as several labels in one cell do, until params say what it is."""
    for key in sorted(keys):
        for sign in _BETWEEN:
            parts = [part.strip() for part in key.split(sign)]
            if len(parts) > 1 and keys >= {*parts}:
                raise LabelError(
                    f"the label {key!r} looks like several of the others; set prepare.task to multi_label and "
                    f"prepare.label.separator to {sign!r}, or list it in prepare.labels if it is one name"
                )
