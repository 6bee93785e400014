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
from potstill.distillation.teachers.position_mapping import Places
from potstill.models.cohort import Cohort
from potstill.pretrained.heads import task_of
from potstill.training.assistants import Teaching
from potstill.training.loop import Outcome, Setting, train
from potstill.training.selection import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Best:
    """The student that is kept.

    Attributes:
        place: of it among the students, from 0.
        outcome: of the common training.
        scores: of several, each one's dev score at the evaluation at which one of them was best.
    """

    place: int
    outcome: Outcome
    scores: list[float]


def objective_for(
    params: Distill,
    students: Sequence[PreTrainedModel],
    teaching: Teaching,
    setting: Setting,
    teacher_rows: TokenDataset | None = None,
    places: Places | None = None,
) -> Objective:
    """What a `distill` section has its students learn: one from its teacher, several from each other too.

    Args:
        params: the section.
        students: as many as `mutual` names, or one.
        teaching: the teacher, or the last assistant.
        setting: of the training.
        teacher_rows: see `distillation`; likewise `places`.

    Raises:
        ModelError, SignalError: see `distillation`.
    """
    task = task_of(students[0])
    if params.mutual is not None and not params.mutual.teacher:
        return MutualLearning.of(params.mutual, [Supervised(task) for _ in students], params.temperature, task)
    own = [teaching.objective(params, student, setting, teacher_rows, places) for student in students]
    return own[0] if params.mutual is None else MutualLearning.of(params.mutual, own, params.temperature, task)


def train_students(
    students: Sequence[PreTrainedModel],
    objective: Objective,
    dataset: TokenDataset,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Best:
    """Train one student, or several that teach each other, in place.

    Of several, all are scored at every evaluation, and all keep the weights of the one at which any was best.

    Args:
        students: one, or a family under `MutualLearning`.
        objective: theirs.
        dataset: the rows to learn from.
        score: of one student, on dev.
        setting: of the training.

    Raises:
        TrainingError: see `train`.
    """
    if not isinstance(objective, MutualLearning):
        (student,) = students
        return Best(0, train(student, dataset, objective, score, setting), [])
    cohort = Cohort(students)
    outcome = train(cohort, dataset, objective, lambda found: max(map(score, found.students)), setting)
    found = current_world().run_on_first(lambda: [score(student) for student in students])
    scores = [one[0] if isinstance(one, tuple) else one for one in found]
    return Best(found.index(max(found)), outcome, scores)
