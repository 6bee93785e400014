"""What a task learns from: its loss on gold labels and its loss on a teacher's logits, one number a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.config.base import TaskKind
from potstill.distillation.losses.logits import (
    binary_cross_entropy,
    cross_entropy,
    kl_divergence,
    mean_squared_error,
    soft_binary_cross_entropy,
    squared_error,
)
from potstill.distillation.losses.spans import span_cross_entropy, span_kl


@dataclass(frozen=True)
class HeadLoss:
    """The losses of one task.

    Attributes:
        gold_term: what the loss on gold labels is called in the history.
        gold: (logits, labels in the task's form) -> [batch], 0 for a row without a gold label.
        soft_term: what the loss on the teacher's logits is called.
        soft: (student's logits, teacher's logits, temperature) -> [batch].
        formula: of `soft`, for the user.
    """

    gold_term: str
    gold: Callable[[Tensor, Tensor], Tensor]
    soft_term: str
    soft: Callable[[Tensor, Tensor, float], Tensor]
    formula: Callable[[float], str]


HEAD_LOSSES: dict[TaskKind, HeadLoss] = {
    "single_label": HeadLoss("ce", cross_entropy, "kl", kl_divergence, lambda t: f"T^2 * KL(T={t:g})"),
    "multi_label": HeadLoss(
        "bce", binary_cross_entropy, "soft_bce", soft_binary_cross_entropy, lambda t: f"T^2 * BCE(T={t:g})"
    ),
    # A number is not softened by a temperature.
    "regression": HeadLoss(
        "se", squared_error, "mse", lambda ours, theirs, _: mean_squared_error(ours, theirs), lambda _: "MSE"
    ),
}


def _span_gold(logits: Tensor, labels: Tensor) -> Tensor:
    """[batch] mean of start and end, of logits [batch, sequence, 2] that are -inf on padding."""
    sides = [span_cross_entropy(logits[..., side], labels[:, side], _choices(logits)) for side in (0, 1)]
    return torch.stack(sides).mean(dim=0)


def _span_soft(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    real = _choices(ours)
    sides = [span_kl(ours[..., side], theirs[..., side], real, temperature) for side in (0, 1)]
    return torch.stack(sides).mean(dim=0)


def _choices(logits: Tensor) -> Tensor:
    """[batch, sequence] the tokens among which is chosen."""
    return (~logits[..., 0].detach().isneginf()).long()


HEAD_LOSSES |= {
    # Each token that is asked is a row.
    "token_classification": HeadLoss("ce", cross_entropy, "kl", kl_divergence, lambda t: f"T^2 * KL(T={t:g}) by token"),
    "question_answering": HeadLoss("ce", _span_gold, "kl", _span_soft, lambda t: f"T^2 * KL(T={t:g}) of start and end"),
}


def gold_rows(labels: Tensor) -> Tensor:
    """[batch] bool: whether a row has a gold label, as `data.batches.labelled` tells it."""
    known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
    return known.flatten(1).any(dim=1) if known.dim() > 1 else known
