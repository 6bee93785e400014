"""The learning curve of a training run, short enough for a manifest."""

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.training.loop import Outcome

# Most points of a curve. The losses of a longer one are averaged over runs of steps, its dev scores thinned.
_POINTS = 100
# Names in a history, see `Outcome.history`.
_LOSS = "loss"
_DEV = "dev"


def learning_curve(outcome: Outcome) -> dict[str, Any]:
    """Return `loss` and `dev`, each as [step, value] pairs in order.

    A loss is the mean over the steps up to its own, a dev score that of its step.
    """
    loss, dev = ([(step, value) for step, name, value in outcome.history if name == key] for key in (_LOSS, _DEV))
    return {_LOSS: _averaged(loss), _DEV: [[step, value] for step, value in _thinned(dev)]}


def _averaged(points: list[tuple[int, float]]) -> list[list[float]]:
    if not points:
        return []
    parts = np.array_split(np.array(points), min(_POINTS, len(points)))
    return [[int(part[-1, 0]), float(part[:, 1].mean())] for part in parts]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep points at equal distances, the last one among them."""
    every = -(-len(points) // _POINTS) or 1
    return points[::-1][::every][::-1]
