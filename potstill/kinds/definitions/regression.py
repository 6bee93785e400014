"""A number, which is the one output of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.kinds.definitions.kind import AGREEMENT, Kind, Names
from potstill.kinds.definitions.single_label import SingleLabel
from potstill.labels.names import Value
from potstill.scores import metrics, numbers
from potstill.scores.metrics import Floats, Labels
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    import pyarrow as pa

# The name of the one output.
SCORE = "score"


def _r_squared(logits: Floats, labels: Labels) -> float:
    return metrics.r_squared(labels, logits[:, 0])


def _correlation(first: Floats, second: Floats) -> float:
    return numbers.correlation(first[:, 0], second[:, 0])


class Regression(Kind):
    """A number."""

    name = "regression"
    short_name = "number"
    form = "number"
    head = replace(SingleLabel.head, problem_type="regression")
    scoring = Scoring("r2", "R²", _r_squared, _correlation)
    table_columns = (("\nMSE", "mse"), ("Spear-\nman", "spearman"))
    score_names = {
        "r2": "R²",
        "mse": "mean squared error",
        "mae": "mean absolute error",
        "pearson": "Pearson correlation",
        "spearman": "Spearman correlation",
    }
    figures = ("answers",)
    score_function = "none"
    label_kinds = ("number",)
    limits = ("max_mse", "max_mae", "min_pearson", "min_spearman")
    has_classes = False
    no_confidence = "whose numbers are neither right nor wrong"
    one_output = True

    def settle(self, values: Sequence[Value]) -> Value | None:
        """Return the mean, which is the best guess where the raters of a text differ."""
        return fmean(values)  # type: ignore[arg-type]

    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        return [SCORE]

    def classes(self, value: Any) -> tuple[str, ...]:
        return ()

    def class_names(self, labels: Names) -> Names:
        return []

    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        """Compute mean, deviation and range."""
        known = [value for value in values if value is not None]
        if not known:
            return {}
        spread = {"mean": fmean(known), "deviation": pstdev(known), "lowest": min(known), "highest": max(known)}
        return {"numbers": {name: round(value, 6) for name, value in spread.items()}}

    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        import pyarrow as pa

        return pa.array(values, pa.float32())

    def token_column(self, outputs: int) -> pa.DataType:
        import pyarrow as pa

        return pa.float32()

    def moments(self, gold: Any, logits: Any) -> Moments:
        return numbers.moments(gold, logits[:, 0])

    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        """Compute the correlation of the two models' numbers."""
        moments = numbers.moments(first[:, 0], second[:, 0])
        return Moments(moments.columns, {AGREEMENT: moments.scores["pearson"]})

    def distance(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute the root of the mean squared difference."""
        difference = teacher[:, 0].astype(np.float64) - student[:, 0]
        return {"rmse": float(np.sqrt(np.square(difference).mean()))}

    def fidelity(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute the correlation, then `distance`."""
        return {"correlation": _correlation(teacher, student)} | self.distance(teacher, student, temperatures)

    def answers(self, logits: Floats, labels: Names) -> list[Any]:
        return [float(value) for value in logits[:, 0]]
