"""Any of several labels, each predicted on its own: a sigmoid of each output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import OneClassError
from potstill.kinds.definitions.kind import Kind, Names, share_moments
from potstill.kinds.definitions.single_label import SingleLabel, count_classes, names_of_classes
from potstill.labels.names import normal_label
from potstill.scores import metrics, several
from potstill.scores.calibration import fit_temperature
from potstill.scores.metrics import Doubles, Flags, Floats, Labels, Reliability
from potstill.scores.probabilities import sigmoid
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    import pyarrow as pa


def _micro_f1(logits: Floats, labels: Labels) -> float:
    return metrics.micro_f1(labels, logits > 0)


def _same_flags(first: Floats, second: Floats) -> float:
    """Compute the share of labels on which two models agree."""
    return float(((first > 0) == (second > 0)).mean())


class MultiLabel(Kind):
    """Any of several labels."""

    name = "multi_label"
    short_name = "labels"
    form = "labels"
    head = replace(SingleLabel.head, problem_type="multi_label_classification")
    scoring = Scoring("micro_f1", "micro F1", _micro_f1, _same_flags)
    table_columns = (("macro\nF1", "macro_f1"), ("sub-\nset", "subset_accuracy"))
    score_names = {"micro_f1": "micro F1", "macro_f1": "macro F1", "subset_accuracy": "subset accuracy"}
    figures = ("reliability", "labels")
    score_function = "sigmoid"
    label_kinds = ("column", "columns", "ranges")
    limits = ("min_macro_f1", "max_ece", "min_micro_f1", "min_subset_accuracy")

    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        """Return the labels in order.

        Raises:
            OneClassError: there is only one, whose model would be taken for one of a number.
        """
        names = names_of_classes({key for keys in values for key in keys}, declared)
        if len(names) == 1:
            raise OneClassError(
                f"{names[0]!r} is the only label of the data, and a multi_label task has several; set prepare.task to "
                "single_label, with a class for the rows without it too"
            )
        return names

    def classes(self, value: Any) -> tuple[str, ...]:
        return tuple(value)

    def stored_classes(self, value: Any, labels: Names) -> tuple[str, ...]:
        return tuple(str(label) for label, flag in zip(labels, value, strict=True) if flag)

    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        return count_classes([key for keys in values for key in keys or ()], labels)

    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        """Make a column of lists with 0 or 1 for each label."""
        import pyarrow as pa

        keys = [normal_label(label) for label in labels]
        rows = [None if value is None else [int(key in value) for key in keys] for value in values]
        # Not of a fixed size, since Parquet cannot read such lists back where there are nulls.
        return pa.array(rows, pa.list_(pa.int8()))

    def token_column(self, outputs: int) -> pa.DataType:
        import pyarrow as pa

        return pa.list_(pa.int8(), outputs)

    def moments(self, gold: Any, logits: Any) -> Moments:
        return several.moments(gold, logits > 0)

    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        return share_moments(((first > 0) == (second > 0)).sum(axis=1), first.shape[1])

    def distance(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute KL(teacher || student) of each label's yes and no, summed over the labels, in nats."""
        teacher_temperature, student_temperature = temperatures
        return {"kl": several.divergence(teacher / teacher_temperature, student / student_temperature)}

    def class_f1(self, gold: Any, logits: Any) -> Doubles:
        return several.label_f1(gold, logits > 0)

    def temperature(self, logits: Floats, labels: Labels) -> float | None:
        """Fit one T for all labels; each label is a choice between two classes, and the logit is its margin."""
        margins = logits.reshape(-1)
        return fit_temperature(np.stack([np.zeros_like(margins), margins], axis=1), labels.astype(np.int64).reshape(-1))

    def probabilities(self, logits: Floats, temperature: float) -> Doubles:
        return sigmoid(logits, temperature)

    def reliability(self, gold: Any, probabilities: Doubles, bins: int) -> Reliability:
        """Compare the confidence in each label's yes or no with accuracy."""
        return several.reliability(gold, probabilities, bins)

    def confidence(self, gold: Any, logits: Any, temperature: float) -> tuple[Doubles, Flags]:
        probabilities = self.probabilities(logits, temperature)
        confidence: Doubles = np.maximum(probabilities, 1 - probabilities).prod(axis=1)
        return confidence, ((logits > 0) == (gold > 0)).all(axis=1)

    def answers(self, logits: Floats, labels: Names) -> list[Any]:
        """Return the labels that are more probable than not."""
        return [[name for name, value in zip(labels, row, strict=True) if value > 0] for row in logits]
