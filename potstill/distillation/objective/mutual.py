"""Mutual learning: students that teach each other on the same batch (Zhang et al. 2018, "Deep Mutual Learning")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.distillation.teachers.outputs import Needs, Outputs, answers_of
from potstill.errors import ModelError
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.kinds.task_names import TaskKind
from potstill.models.cohort import Cohort


@dataclass(frozen=True)
class CohortNeeds(Needs):
    """What an objective needs of a cohort: the union over its students, and what it needs of each of them.

    Attributes:
        students: the needs of each student.
    """

    students: tuple[Needs, ...] = ()


@dataclass(frozen=True)
class CohortOutputs(Outputs):
    """The outputs of a cohort on a batch; its own logits are those of the first student.

    Attributes:
        students: the outputs of each student.
    """

    students: tuple[Outputs, ...] = ()


class MutualLearning(Objective):
    """Each student's own loss plus weight * T^2 * KL(mean of the other students || student), softened at T.

    For tasks other than single-label classification, the task's own loss on logits takes the place of KL.

    The softened probabilities of the other students are averaged and carry no gradient: "DML_e" in the paper. All
    students are updated in one step, with one norm for gradient clipping.

    Args:
        objectives: the objective of each student.
        temperature: T.
        weight: weight of the loss on the other students.
        task: determines the loss.

    Raises:
        ModelError: there are fewer than two students.
    """

    def __init__(
        self, objectives: Sequence[Objective], temperature: float, weight: float, task: TaskKind = "single_label"
    ) -> None:
        super().__init__()
        if len(objectives) < 2:
            raise ModelError(f"{len(objectives)} students cannot teach each other; give two or more")
        # Registered as a module for its parameters; the tuple keeps the type of its items.
        self.objectives = nn.ModuleList(objectives)
        self._objectives = tuple(objectives)
        self.teacher_needs = objectives[0].teacher_needs
        self._temperature = temperature
        self._weight = weight
        self._task = task

    def describe(self) -> list[str]:
        """Describe the first student's objective, and the term that is added for each student."""
        added = f"{self._weight:g} * {HEAD_LOSSES[self._task].formula(self._temperature)} to the mean of the others"
        return [*self._objectives[0].describe(), f"+ {added}, for each of {len(self._objectives)} students"]

    def needs(self, step: int, total: int) -> CohortNeeds:
        """Return what the step needs of each student beyond logits, and the union of that."""
        students = tuple(objective.needs(step, total) for objective in self._objectives)
        union = reduce(or_, students)
        return CohortNeeds(union.hidden, union.attention, union.vectors, students)

    def observe(self, model: Cohort, batch: Batch, device: torch.device, needs: Needs) -> CohortOutputs:
        """Run every student on the batch."""
        assert isinstance(needs, CohortNeeds)
        parts = zip(self._objectives, model.students, needs.students, strict=True)
        students = tuple(
            objective.observe(student, batch, device, student_needs) for objective, student, student_needs in parts
        )
        return CohortOutputs(students[0].logits, students=students)

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        """Compute each student's terms, named `student<n>_<term>` with n from 1, and `student<n>_mutual`."""
        assert isinstance(outputs, CohortOutputs)
        terms: Terms = {}
        logits = [answers_of(student, batch).logits for student in outputs.students]
        for index, (objective, student) in enumerate(zip(self._objectives, outputs.students, strict=True)):
            others = [other for position, other in enumerate(logits) if position != index]
            mutual = self._mutual(logits[index], torch.stack(others, dim=-2)).sum() / step.answers
            student_terms = objective(student, batch, step) | {"mutual": self._weight * mutual}
            terms |= {f"student{index + 1}_{name}": term for name, term in student_terms.items()}
        return terms

    def _mutual(self, student: Tensor, others: Tensor) -> Tensor:
        """[batch] losses against the mean of the others, whose logits are [batch, ..., others, outputs]."""
        loss = HEAD_LOSSES[self._task]
        mean = loss.mean(others, [1 / others.shape[-2]] * others.shape[-2], self._temperature)
        return loss.soft(student, mean, self._temperature)
