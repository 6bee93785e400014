"""Students that teach each other on the same batch (Zhang et al. 2018, "Deep Mutual Learning")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from potstill.config.base import TaskKind
from potstill.config.distill_params import Mutual
from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.gold_labels import Objective, Terms, Window
from potstill.distillation.objective.supervision import HEAD_LOSSES
from potstill.distillation.teachers.mean_answers import ensemble_answers
from potstill.distillation.teachers.outputs import Needs, Outputs, answers_of
from potstill.errors import ModelError
from potstill.models.cohort import Cohort


@dataclass(frozen=True)
class EachNeeds(Needs):
    """What is asked of a cohort: of any of its students, and of each.

    Attributes:
        each: one for each student.
    """

    each: tuple[Needs, ...] = ()


@dataclass(frozen=True)
class Together(Outputs):
    """The answers of a cohort to a batch; its own logits are the first student's.

    Attributes:
        each: one for each student.
    """

    each: tuple[Outputs, ...] = ()


class MutualLearning(Objective):
    """For each student its own loss + weight * T^2 * KL(mean of the others || student at T), mean over what answers.

    For other tasks than one class of several, the task's own loss takes the place of KL.

    The others' softened probabilities are averaged, and no gradient flows to them: the "DML_e" of the paper, which
    updates the students in one step here, under one clipping of all gradients.

    Args:
        own: each student's own objective.
        temperature: T.
        weight: of what the others teach.
        task: decides the loss.

    Raises:
        ModelError: there are fewer than two.
    """

    def __init__(
        self, own: Sequence[Objective], temperature: float, weight: float, task: TaskKind = "single_label"
    ) -> None:
        super().__init__()
        if len(own) < 2:
            raise ModelError(f"{len(own)} students cannot teach each other; give two or more")
        self.own = nn.ModuleList(own)
        self.asks = own[0].asks
        self._own, self._temperature, self._weight, self._task = tuple(own), temperature, weight, task

    @classmethod
    def of(cls, params: Mutual, own: Sequence[Objective], temperature: float, task: TaskKind) -> MutualLearning:
        """The objective that `distill.mutual` describes; `temperature` is the section's."""
        return cls(own, params.temperature or temperature, params.weight, task)

    def describe(self) -> list[str]:
        """The first student's own lines, and what is added to each one's."""
        added = f"{self._weight:g} * {HEAD_LOSSES[self._task].formula(self._temperature)} to the mean of the others"
        return [*self._own[0].describe(), f"+ {added}, for each of {len(self._own)} students"]

    def needs(self, step: int, total: int) -> EachNeeds:
        """What the step asks of any of the students, and of each."""
        each = tuple(objective.needs(step, total) for objective in self._own)
        together = reduce(or_, each)
        return EachNeeds(together.hidden, together.attention, together.vectors, each)

    def observe(self, model: Cohort, batch: Batch, device: torch.device, needs: Needs) -> Together:
        """Run every student on the batch."""
        assert isinstance(needs, EachNeeds)
        parts = zip(self._own, model.students, needs.each, strict=True)
        each = tuple(objective.observe(student, batch, device, own) for objective, student, own in parts)
        return Together(each[0].logits, each=each)

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """Each student's terms, as `student<n>_<term>` with n from 1, and `student<n>_mutual`."""
        assert isinstance(outputs, Together)
        terms: Terms = {}
        answers = [answers_of(one, batch).logits for one in outputs.each]
        for place, (objective, ours) in enumerate(zip(self._own, outputs.each, strict=True)):
            others = [answer for other, answer in enumerate(answers) if other != place]
            taught = self._mutual(answers[place], torch.stack(others, dim=-2)).sum() / window.answers
            found = objective(ours, batch, window) | {"mutual": self._weight * taught}
            terms |= {f"student{place + 1}_{name}": term for name, term in found.items()}
        return terms

    def _mutual(self, student: Tensor, others: Tensor) -> Tensor:
        """[batch] losses against the mean of the others, [batch, ..., others, outputs] logits."""
        mean = ensemble_answers(others, [1 / others.shape[-2]] * others.shape[-2], self._temperature, self._task)
        return HEAD_LOSSES[self._task].soft(student, mean, self._temperature)
