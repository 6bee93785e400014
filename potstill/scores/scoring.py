"""The one score of a task: weights are selected by it, parity and gates look at it, the table begins with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
