"""Losses of answers to questions: start and end are each a choice among the tokens of a row.

Logits are [batch, sequence, 2], minus infinity on padding; losses are the mean over start and end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.distillation.losses.means import Weights, ensemble_logits, weight_tensor
from potstill.distillation.losses.spans import span_cross_entropy, span_kl
from potstill.kinds.losses.head_loss import HeadLoss


def _gold(logits: Tensor, labels: Tensor) -> Tensor:
    sides = [span_cross_entropy(logits[..., side], labels[:, side], _choices(logits)) for side in (0, 1)]
    return torch.stack(sides).mean(dim=0)


def _soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    real = _choices(student)
    sides = [span_kl(student[..., side], teacher[..., side], real, temperature) for side in (0, 1)]
    return torch.stack(sides).mean(dim=0)


def _mean(members: Tensor, weights: Weights, temperature: float) -> Tensor:
    """Combine the tokens of a row as classes, for start and for end."""
    weight_tensor(members, weights)  # checks the number of members
    return ensemble_logits(members.permute(0, 3, 2, 1), weights, temperature).transpose(1, 2)


def _choices(logits: Tensor) -> Tensor:
    """Tell which tokens can be chosen [batch, sequence]."""
    return (~logits[..., 0].detach().isneginf()).long()


QUESTION_ANSWERING = HeadLoss("ce", _gold, "kl", _soft, lambda t: f"T^2 * KL(T={t:g}) of start and end", _mean)
