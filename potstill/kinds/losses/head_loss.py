"""What a kind of task learns from: losses with one number a row, and how they combine several teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from potstill.distillation.losses.means import Weights, ensemble_logits


@dataclass(frozen=True)
class HeadLoss:
    """The losses of one task.

    Attributes:
        gold_term: name of the loss on gold labels in the history.
        gold: (logits, labels in the task's form) -> losses [batch]; 0 for a row without a gold label.
        soft_term: name of the loss on the teacher's logits.
        soft: (student's logits, teacher's logits, temperature) -> losses [batch]; no gradient flows to the teacher.
        formula: temperature -> `soft` as a formula for the user.
        mean: (members' logits [batch, ..., members, outputs], weights, T) -> the logits [batch, ..., outputs] in fp32
            that `soft` at T compares with; by default those of the members' mean probabilities at T. Raises SignalError
            if the numbers of members and weights differ. In multi-label tasks weights may differ between labels. For
            question answering members' logits are [batch, sequence, members, 2], minus infinity on padding.
    """

    gold_term: str
    gold: Callable[[Tensor, Tensor], Tensor]
    soft_term: str
    soft: Callable[[Tensor, Tensor, float], Tensor]
    formula: Callable[[float], str]
    mean: Callable[[Tensor, Weights, float], Tensor] = ensemble_logits


def gold_rows(labels: Tensor) -> Tensor:
    """Tell which rows have a gold label [batch], as `data.tokens.batches.has_label` does."""
    known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
    return known.flatten(1).any(dim=1) if known.dim() > 1 else known
