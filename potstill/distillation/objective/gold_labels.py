"""The base class of training objectives, and the simplest objective: gold labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs, answers_of, observe
from potstill.distillation.teachers.predict import model_inputs
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Term name -> scalar; the loss is their sum.
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class OptimizerStep:
    """The optimizer step that a batch belongs to; it can have several batches (gradient accumulation).

    A term is a sum over the batch, divided once by a size of the whole step, so that the terms of a step's batches add
    up to exactly the term of one large batch.

    Attributes:
        index: index of the step in the run, counted from 0.
        total: optimizer steps of the run.
        rows: rows of the step.
        gold: answers with a gold label.
        tokens: real tokens of the step, without padding.
        targets: labels of the step if a row can have several, such as masked tokens to predict.
        answers: number of answers that losses on logits average over: rows, or labelled tokens; 1 if there are none,
            as in windows that lie within one long word.
    """

    index: int
    total: int
    rows: int
    gold: int
    tokens: int
    targets: int = 0
    answers: int = 0

    @classmethod
    def of(cls, batches: Sequence[Batch], index: int = 0, total: int = 1) -> OptimizerStep:
        """Count the sizes of a step that consists of these batches."""
        rows = sum(len(batch.rows) for batch in batches)
        gold = sum(int(batch.gold.sum()) for batch in batches)
        tokens = sum(batch.tokens for batch in batches)
        targets = sum(int((batch.labels >= 0).sum()) for batch in batches if batch.labels.dtype.kind == "i")
        answers = sum(len(batch.labels) for batch in batches)
        return cls(index, total, rows, gold, tokens, targets, max(answers, 1))


class Objective(nn.Module, ABC):
    """What a training run minimises: the sum of terms that compare a model's outputs with labels or a teacher.

    Its parameters (projections between widths) are trained with the model and saved in checkpoints, but are not part
    of the model. A teacher is never one of its submodules.

    Attributes:
        teacher_needs: what the terms need of a teacher beyond logits.
    """

    teacher_needs: Needs = LOGITS

    @abstractmethod
    def describe(self) -> list[str]:
        """Describe each term in one line."""

    def view(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch as the model sees it in an epoch; a pure function, so that a resumed run sees the same."""
        return batch

    def needs(self, step: int, total: int) -> Needs:
        """Return what the objective needs of the model beyond logits at a step, counted from 0."""
        return LOGITS

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Run the model on a batch that `view` returned."""
        return observe(model, model_inputs(batch, device), needs)

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        """Compute the weighted terms of a batch, whose sum is its share of the step's loss."""


class Supervised(Objective):
    """The task's loss on gold labels (cross-entropy for classes), averaged over the rows that have one."""

    def __init__(self, task: TaskKind = "single_label") -> None:
        super().__init__()
        self._loss = HEAD_LOSSES[task]

    def describe(self) -> list[str]:
        """Describe the one term."""
        return [f"{self._loss.gold_term.upper()} on the gold labels"]

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        """Compute the one term, such as `ce`."""
        labels = torch.from_numpy(batch.labels).to(outputs.logits.device)
        logits = answers_of(outputs, batch).logits
        return {self._loss.gold_term: self._loss.gold(logits, labels).sum() / max(step.gold, 1)}
