"""What a training objective is, and the simplest one: gold labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potstill.config import TaskKind
from potstill.data.batches import Batch
from potstill.distillation.outputs import LOGITS, Needs, Outputs, answers_of
from potstill.distillation.supervision import HEAD_LOSSES

# Term name -> scalar; the loss is their sum.
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Window:
    """The optimizer step that a batch belongs to, which may have several (gradient accumulation).

    A term is a sum over the batch divided by a size of the whole step, once, so that the terms of a step's batches add
    up to exactly the term of one large batch.

    Attributes:
        step: of the run, counted from 0.
        total: optimizer steps of the run.
        rows: rows of the step.
        gold: answers with a gold label.
        tokens: real tokens of the step, padding not counted.
        answers: what the losses on logits are a mean of: rows, or the tokens that are asked.
    """

    step: int
    total: int
    rows: int
    gold: int
    tokens: int
    answers: int

    @classmethod
    def of(cls, batches: Sequence[Batch], step: int = 0, total: int = 1) -> Window:
        """The window of these batches."""
        rows = sum(len(batch.rows) for batch in batches)
        gold = sum(int(batch.gold.sum()) for batch in batches)
        answers = sum(len(batch.labels) for batch in batches)
        return cls(step, total, rows, gold, sum(batch.tokens for batch in batches), answers)


class Objective(nn.Module):
    """What a model's outputs are compared with, term by term.

    Its parameters (projections between widths) are trained with the model and are in the checkpoints, but not in the
    model. A teacher is never one of its submodules.
    """

    def needs(self, step: int, total: int) -> Needs:
        """What a step asks of the model beside logits."""
        return LOGITS

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The weighted terms of a batch; their sum is its share of the step's loss."""
        raise NotImplementedError


class Supervised(Objective):
    """The task's loss on gold labels (cross-entropy of classes), mean over the rows that have one."""

    def __init__(self, task: TaskKind = "single_label") -> None:
        super().__init__()
        self._loss = HEAD_LOSSES[task]

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The one term, such as `ce`."""
        labels = torch.from_numpy(batch.labels).to(outputs.logits.device)
        outputs = answers_of(outputs, batch)
        return {self._loss.gold_term: self._loss.gold(outputs.logits, labels).sum() / max(window.gold, 1)}
