"""One student, or several that teach each other, in the one training loop; the best is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from potstill.compute.distributed import current_world
from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.gold_labels import Objective, Supervised
from potstill.distillation.objective.mutual import MutualLearning
from potstill.distillation.teachers.position_mapping import PositionMapping
from potstill.models.cohort import Cohort
from potstill.training.assistants import Teaching
from potstill.training.loop import Outcome, Setting, train
from potstill.training.selection import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Best:
    """The student that is kept.

    Attributes:
        index: its index among the students.
        outcome: the outcome of the joint training.
        scores: with several students, the dev score of each at the evaluation at which one of them was best.
    """

    index: int
    outcome: Outcome
    scores: list[float]


def objective_for(
    params: Distill,
    students: Sequence[PreTrainedModel],
    teaching: Teaching,
    setting: Setting,
    teacher_rows: TokenDataset | None = None,
    positions: PositionMapping | None = None,
) -> Objective:
    """Compose what a `distill` section has its students learn: from their teacher, and several from each other too.

    Args:
        params: the section.
        students: as many as `mutual` names, or one.
        teaching: the teacher, or the last assistant.
        setting: of the training.
        teacher_rows: see `distillation`.
        positions: the `mapping` of `distillation`.

    Raises:
        ModelError, SignalError: see `distillation`.
    """
    task, mutual = teaching.task, params.mutual
    objectives: list[Objective] = [Supervised(task) for _ in students]
    if mutual is None or mutual.teacher:
        objectives = [teaching.objective(params, student, setting, teacher_rows, positions) for student in students]
    if mutual is None:
        return objectives[0]
    return MutualLearning(objectives, mutual.temperature or params.temperature, mutual.weight, task)


def train_students(
    students: Sequence[PreTrainedModel],
    objective: Objective,
    dataset: TokenDataset,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Best:
    """Train one student, or several that teach each other, in place.

    Several are all scored at every evaluation, and all keep the weights of the evaluation at which any was best.

    Args:
        students: one, or several under `MutualLearning`.
        objective: what they minimise.
        dataset: the rows to learn from.
        score: of one student on dev.
        setting: of the training.

    Raises:
        TrainingError: see `train`.
    """
    if not isinstance(objective, MutualLearning):
        (student,) = students
        return Best(0, train(student, dataset, objective, score, setting), [])
    outcome = train(Cohort(students), dataset, objective, lambda cohort: max(map(score, cohort.students)), setting)
    final = current_world().run_on_first(lambda: [score(student) for student in students])
    scores = [value[0] if isinstance(value, tuple) else value for value in final]
    return Best(final.index(max(final)), outcome, scores)
