"""The main score of a task: it selects weights, parity and gates compare it, and it is the table's first column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from potstill.scores.metrics import Floats, Labels


@dataclass(frozen=True)
class Scoring:
    """The score of a task. Larger is better, and 1, shown as 100%, is the largest value.

    Attributes:
        key: its name in metrics.json.
        words: its name in a sentence.
        score: (logits [rows, outputs], labels [rows, ...] in the task's form) -> the score.
        agreement: (one model's logits, another's) -> agreement of their answers: the share of equal classes, of equal
            yes and no answers, or of windows with the same span; for numbers the correlation.
    """

    key: str
    words: str
    score: Callable[[Floats, Labels], float]
    agreement: Callable[[Floats, Floats], float]

    @property
    def dev_key(self) -> str:
        """The name of the score on dev in manifests and MLflow."""
        return f"dev_{self.key}"

    @property
    def axis(self) -> str:
        """The title of a column or an axis."""
        return f"{self.words}, %"
