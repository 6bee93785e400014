"""Probabilities of logits, for the service and the evaluation alike; numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Compute the probabilities [..., labels] of logits [..., labels] divided by a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Compute the probability of yes [..., labels], each label by itself, of logits divided by a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(-np.abs(scaled))  # by size, so that none overflows
    return np.asarray(np.where(scaled >= 0, 1, powers) / (1 + powers))
