"""What a training objective is, and the simplest one: gold labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from potstill.config.base import TaskKind
from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.supervision import HEAD_LOSSES
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs, answers_of, observe
from potstill.distillation.teachers.predict import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        targets: labels of the step, where a row can have several: the tokens behind a mask.
        answers: what the losses on logits are a mean of: rows, or the tokens that are asked.
    """

    step: int
    total: int
    rows: int
    gold: int
    tokens: int
    targets: int = 0
    answers: int = 0

    @classmethod
    def of(cls, batches: Sequence[Batch], step: int = 0, total: int = 1) -> Window:
        """The window of these batches."""
        rows = sum(len(batch.rows) for batch in batches)
        gold = sum(int(batch.gold.sum()) for batch in batches)
        targets = sum(int((batch.labels >= 0).sum()) for batch in batches if batch.labels.dtype.kind == "i")
        answers = sum(len(batch.labels) for batch in batches)
        return cls(step, total, rows, gold, sum(batch.tokens for batch in batches), targets, answers)


class Objective(nn.Module, ABC):
    """What a model's outputs are compared with, term by term.

    Its parameters (projections between widths) are trained with the model and are in the checkpoints, but not in the
    model. A teacher is never one of its submodules.
    """

    # Of a teacher, beside logits.
    asks: Needs = LOGITS

    @abstractmethod
    def describe(self) -> list[str]:
        """What it is, one line a term, as the user reads it."""

    def view(self, batch: Batch, epoch: int) -> Batch:
        """What the model is shown of a batch in an epoch: a pure function of both, for the sake of a resumed run."""
        return batch

    def needs(self, step: int, total: int) -> Needs:
        """What a step asks of the model beside logits."""
        return LOGITS

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Run the model on what `view` gave."""
        return observe(model, model_inputs(batch, device), needs)

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The weighted terms of a batch; their sum is its share of the step's loss."""


class Supervised(Objective):
    """The task's loss on gold labels (cross-entropy of classes), mean over the rows that have one."""

    def __init__(self, task: TaskKind = "single_label") -> None:
        super().__init__()
        self._loss = HEAD_LOSSES[task]

    def describe(self) -> list[str]:
        """Its one term."""
        return [f"{self._loss.gold_term.upper()} on the gold labels"]

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The one term, such as `ce`."""
        labels = torch.from_numpy(batch.labels).to(outputs.logits.device)
        outputs = answers_of(outputs, batch)
        return {self._loss.gold_term: self._loss.gold(outputs.logits, labels).sum() / max(window.gold, 1)}
