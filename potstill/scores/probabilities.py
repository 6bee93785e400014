"""Probabilities from logits, for the service and the evaluation alike; needs numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Compute the probabilities [..., labels] from logits [..., labels] divided by a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Compute the probability of each label on its own [..., labels] from logits divided by a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(-np.abs(scaled))  # never overflows
    return np.asarray(np.where(scaled >= 0, 1, powers) / (1 + powers))
