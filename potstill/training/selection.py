"""Which weights a run keeps, and when it has waited long enough for better ones."""

from __future__ import annotations

import math
from typing import Any

# A dev score, or a dev score and the agreement with the teacher, which decides between equal scores.
Score = float | tuple[float, float]


class Selection:
    """The best evaluation so far, and how many have gone by without a gain.

    Weights are judged by their own score. A gain, which patience waits for, is a higher mean of the last `window`
    scores than ever before, so that one lucky evaluation neither prolongs a run nor ends it.

    Args:
        patience: evaluations without a gain after which the run stops; None: never.
        window: scores of that mean; in the beginning as many as there are.

    Attributes:
        scores: of all evaluations.
        best: score and agreement of the weights that are kept.
        without_gain: evaluations since the last gain.
    """

    def __init__(self, patience: int | None, window: int) -> None:
        self._patience, self._window = patience, window
        self.scores: list[float] = []
        self.best: tuple[float, float] | None = None
        self.without_gain = 0
        self._highest = -math.inf

    @property
    def stopped(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and self.without_gain >= self._patience

    def take(self, score: Score) -> bool:
        """Note an evaluation; whether its weights are the best so far."""
        value = score if isinstance(score, tuple) else (score, 0.0)
        self.scores.append(value[0])
        last = self.scores[-self._window :]
        mean = sum(last) / len(last)
        self.without_gain += 1
        if mean > self._highest:
            self._highest, self.without_gain = mean, 0
        if self.best is not None and not value > self.best:
            return False
        self.best = value
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        highest = self._highest if self.scores else None
        return {"scores": self.scores, "best": self.best, "without_gain": self.without_gain, "highest": highest}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.scores, self.without_gain = list(state["scores"]), state["without_gain"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self._highest = -math.inf if state["highest"] is None else state["highest"]
