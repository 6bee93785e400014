"""The training objectives: what a batch's logits are compared with, term by term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.data.batches import Batch, Ints
from potstill.distillation.losses import cross_entropy, kl_divergence

# Term name -> scalar; the loss is their sum.
Terms = dict[str, Tensor]
Objective = Callable[[Tensor, Batch], Terms]


def supervised(logits: Tensor, batch: Batch) -> Terms:
    """Cross-entropy with the gold labels, mean over the rows that have one."""
    labels = torch.from_numpy(batch.labels).to(logits.device)
    known = (labels >= 0).sum().clamp(min=1)
    return {"ce": cross_entropy(logits, labels).sum() / known}


@dataclass(frozen=True)
class Distillation:
    """alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE (Hinton et al. 2015), row by row.

    A row without a gold label carries the teacher's signal with weight 1, so that an unlabelled row teaches as much as
    a labelled one.

    Attributes:
        signals: gives the teacher's logits [batch, classes] of dataset rows, whatever their source.
        temperature: T.
        alpha: weight of the teacher on rows with a gold label.
    """

    signals: Callable[[Ints], Tensor]
    temperature: float
    alpha: float

    def __call__(self, logits: Tensor, batch: Batch) -> Terms:
        """The two weighted terms of a batch of student logits [batch, classes]."""
        labels = torch.from_numpy(batch.labels).to(logits.device)
        teacher = self.signals(batch.rows).to(logits.device)
        gold = (labels >= 0).float()
        soft_weight = 1 - (1 - self.alpha) * gold
        rows = len(batch.rows)
        return {
            "kl": (soft_weight * kl_divergence(logits, teacher, self.temperature)).sum() / rows,
            "ce": (1 - self.alpha) * cross_entropy(logits, labels).sum() / rows,
        }
