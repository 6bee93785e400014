"""Temperature scaling: one number that makes a classifier's probabilities match how often it is right."""

from __future__ import annotations

import numpy as np

from potstill.scores.metrics import Floats, Ints

# Bounds of T. On separable rows the likelihood rises without end as T falls, and on rows worse than chance as T grows.
LOWEST, HIGHEST = 0.05, 20.0
# Halvings of the interval, enough for T to be exact in float64.
STEPS = 60


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Find the temperature T that minimises the negative log likelihood of softmax(logits / T).

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The loss is convex in 1/T, so its slope changes sign at
    most once, and bisection finds the minimum. If there is none within [`LOWEST`, `HIGHEST`], as with perfectly
    separated rows, the nearer bound is returned. The predicted classes stay the same.

    Args:
        logits: [rows, labels] of rows that the model was not trained on.
        labels: [rows] gold classes.

    Raises:
        ValueError: no rows, shapes that do not match, a label out of range, or logits that are not finite.
    """
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} are not [rows, labels] and [rows]")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels lie in [{labels.min()}, {labels.max()}], the logits have {logits.shape[1]} classes")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    # Relative to the gold class: the loss of a row is then log(sum(exp(margins / T))).
    margins = logits.astype(np.float64)
    margins -= margins[np.arange(len(labels)), labels][:, None]
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _slope(margins, float(np.exp(middle))) > 0:
            high = middle
        else:
            low = middle
    return float(np.clip(np.exp(-(low + high) / 2), LOWEST, HIGHEST))


def _slope(margins: Floats, inverse: float) -> float:
    """Compute the derivative of the mean loss with respect to 1/T at `inverse`."""
    scaled = margins * inverse
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return float(np.mean((weights * margins).sum(axis=1) / weights.sum(axis=1)))
