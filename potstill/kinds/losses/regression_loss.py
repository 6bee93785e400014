"""Losses of a number: squared errors. A temperature does not soften a number."""

from __future__ import annotations

from potstill.distillation.losses.logits import mean_squared_error, squared_error
from potstill.distillation.losses.means import mean_logits
from potstill.kinds.losses.head_loss import HeadLoss

REGRESSION = HeadLoss(
    "se",
    squared_error,
    "mse",
    lambda student, teacher, _: mean_squared_error(student, teacher),
    lambda _: "MSE",
    lambda members, weights, _: mean_logits(members, weights),
)
