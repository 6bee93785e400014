"""Model selection and early stopping."""

from __future__ import annotations

import math
from typing import Any

# A dev score, or a dev score and the agreement with the teacher, which breaks ties.
Score = float | tuple[float, float]


class Selection:
    """Selects the weights with the best score, and stops a run that no longer improves.

    Weights are selected by their own score. Patience waits for a gain, which is a new maximum of the mean over the last
    `window` scores, so that one lucky evaluation neither prolongs nor ends a run.

    Args:
        patience: number of evaluations without a gain after which the run stops; None never stops it.
        window: number of scores in the mean; fewer at the start of a run.

    Attributes:
        scores: scores of all evaluations.
        best: score and agreement of the selected weights.
        without_gain: evaluations since the last gain.
    """

    def __init__(self, patience: int | None, window: int) -> None:
        self._patience = patience
        self._window = window
        self.scores: list[float] = []
        self.best: tuple[float, float] | None = None
        self.without_gain = 0
        self._highest = -math.inf

    @property
    def stopped(self) -> bool:
        """Whether the run has to stop."""
        return self._patience is not None and self.without_gain >= self._patience

    def add(self, score: Score) -> bool:
        """Add an evaluation, and return whether its weights are the best so far."""
        value = score if isinstance(score, tuple) else (score, 0.0)
        self.scores.append(value[0])
        last = self.scores[-self._window :]
        mean = sum(last) / len(last)
        self.without_gain += 1
        if mean > self._highest:
            self._highest = mean
            self.without_gain = 0
        if self.best is not None and not value > self.best:
            return False
        self.best = value
        return True

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        highest = self._highest if self.scores else None
        return {"scores": self.scores, "best": self.best, "without_gain": self.without_gain, "highest": highest}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.scores = list(state["scores"])
        self.without_gain = state["without_gain"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self._highest = -math.inf if state["highest"] is None else state["highest"]
