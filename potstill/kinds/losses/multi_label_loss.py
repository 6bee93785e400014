"""Losses of several labels: binary cross-entropy with gold labels, and with the teacher's sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.distillation.losses.logits import binary_cross_entropy, soft_binary_cross_entropy
from potstill.distillation.losses.means import Weights, logits_of_the_mean, weight_tensor
from potstill.kinds.losses.head_loss import HeadLoss


def _mean(members: Tensor, weights: Weights, temperature: float) -> Tensor:
    """Combine the two classes yes and no of each label."""
    no_and_yes = torch.stack([torch.zeros_like(members), members], dim=-1).transpose(-3, -2)
    mean = logits_of_the_mean(no_and_yes, weight_tensor(members, weights).mT.unsqueeze(-1), temperature)
    return mean[..., 1] - mean[..., 0]


MULTI_LABEL = HeadLoss(
    "bce", binary_cross_entropy, "soft_bce", soft_binary_cross_entropy, lambda t: f"T^2 * BCE(T={t:g})", _mean
)
