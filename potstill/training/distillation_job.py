"""One distillation, from a teacher, rows and a `distill` section to a trained student.

The stage `distill`, the Python interface, `potstill probe` and `potstill search` all run this job. They differ in where
the teacher, the rows and the device come from, and in what they do with the student.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from potstill.config.distill_params import Distill
from potstill.config.training_params import Training
from potstill.data.tokens.batches import Ints, Labels, TokenDataset
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.objective.gold_labels import Objective
from potstill.distillation.teachers.mean_answers import Floats
from potstill.distillation.teachers.position_mapping import PositionMapping, mapped_source
from potstill.distillation.teachers.providers import Source
from potstill.kinds.task_names import TaskKind
from potstill.models.students.student import check_plan
from potstill.training.assistants import Teaching, through_assistants
from potstill.training.dev_scores import dev_score
from potstill.training.loop import Outcome, Setting
from potstill.training.selection import Score
from potstill.training.student_builder import Clock, StudentBuilder
from potstill.training.together import objective_for, train_students

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Chooses device, precision and folders for a training of a model under a plan.
ChooseSetting: TypeAlias = Callable[[Training, "PreTrainedModel"], Setting]


@dataclass(frozen=True)
class TokenRows:
    """The rows of a distillation as the tokens of one model.

    Attributes:
        train: the rows to learn from, labelled ones first.
        dev: the rows that select the weights.
        dev_labels: what is right on dev, in the form of `TokenDataset.whole_labels`.
    """

    train: TokenDataset
    dev: TokenDataset
    dev_labels: Labels


@dataclass(frozen=True)
class DistillationData:
    """The rows of a distillation and the kind of task, opened once.

    Attributes:
        task: what the rows are for.
        teacher: the rows as the teacher's tokens.
        student: the same rows, in the same order, as the student's tokens; the same object where both have the same.
        positions: where tokens answer and the two differ, where the student's tokens lie among the teacher's.
    """

    task: TaskKind
    teacher: TokenRows
    student: TokenRows
    positions: PositionMapping | None = None

    def select(self, rows: Ints) -> DistillationData:
        """The same data with some of the training rows; only without `positions`."""
        teacher, student = (replace(part, train=part.train.select(rows)) for part in (self.teacher, self.student))
        return replace(self, teacher=teacher, student=teacher if self.student is self.teacher else student)


@dataclass(frozen=True)
class TeacherAnswers:
    """A teacher, and what it answers.

    Attributes:
        model: the teacher; of several the first, from whose layers students start.
        signals: the outputs on the training rows, of all teachers together.
        predict_dev: computes the logits on dev, of all teachers together.
    """

    model: PreTrainedModel
    signals: Source
    predict_dev: Callable[[], Floats]

    @cached_property
    def dev_logits(self) -> Floats:
        """The logits on dev, computed when first asked for."""
        return self.predict_dev()


@dataclass(frozen=True)
class DistillationJob:
    """A distillation that is described in full.

    Attributes:
        data: the rows.
        teacher: the teacher and its answers to them.
        builder: builds the students; it holds the `distill` section.
        choose_setting: chooses device, precision and folders for a training.
    """

    data: DistillationData
    teacher: TeacherAnswers
    builder: StudentBuilder
    choose_setting: ChooseSetting

    @property
    def params(self) -> Distill:
        """The `distill` section."""
        return self.builder.params

    @property
    def clock(self) -> Clock:
        """Counts the time of training and inference."""
        return self.builder.clock

    def prepare(self) -> Preparation:
        """Train the assistants, build the students and compose their objective.

        Raises:
            ModelError, SignalError: layers, sizes, a class or a loss term that do not fit.
        """
        params, data = self.params, self.data
        if params.student.kind in ("layers", "distilbert"):
            check_plan(params, self.teacher.model)
        teaching = self._teaching()
        source = teaching.source
        if data.positions is not None:
            source = mapped_source(source, data.teacher.train, data.positions)
        on_logits = Distillation(source, Blend(params.temperature, params.alpha, data.task))
        choices = [teaching.layers] if params.mutual is None else params.mutual.students
        students = [self.builder.build(teaching.model, layers, data.student.train, on_logits) for layers in choices]
        setting = self.choose_setting(params, students[0])
        teacher_rows = None if data.student is data.teacher else data.teacher.train
        objective = objective_for(params, students, teaching, setting, teacher_rows, data.positions)
        return Preparation(self, teaching, students, objective, setting)

    def _teaching(self) -> Teaching:
        """The teacher and its signals, or those of the last assistant."""
        params, rows = self.params, self.data.teacher
        teaching = Teaching(self.teacher.model, self.teacher.signals, params.layers)
        if not params.assistants:
            return teaching
        setting = self.choose_setting(params, teaching.model)
        score = dev_score(self.data.task, rows.dev, setting, labels=rows.dev_labels)
        with self.clock("training"):
            return through_assistants(params, teaching, rows.train, score, setting)


@dataclass(frozen=True)
class Preparation:
    """Students and their objective, ready for training.

    Attributes:
        job: the distillation.
        teaching: what teaches them: the teacher, or the last assistant.
        students: one, or several that teach each other.
        objective: what they minimise.
        setting: of their training.
    """

    job: DistillationJob
    teaching: Teaching
    students: list[PreTrainedModel]
    objective: Objective
    setting: Setting

    def train(self, score: Callable[[PreTrainedModel], Score] | None = None) -> TrainedStudent:
        """Train the students and keep the best.

        Args:
            score: of a model on dev; None: the task's, and the agreement with the teacher between equal ones.

        Raises:
            TrainingError: see `potstill.training.loop.train`.
        """
        job = self.job
        score = score or self._dev_score()
        with job.clock("training"):
            best = train_students(self.students, self.objective, job.data.student.train, score, self.setting)
        scores = {f"assistant_{number}": part.score for number, part in enumerate(self.teaching.outcomes, start=1)}
        scores |= {f"student_{number}": value for number, value in enumerate(best.scores, start=1)}
        rows = best.outcome.rows + sum(part.rows for part in self.teaching.outcomes)
        history = [*self.teaching.history, *best.outcome.history]
        outcome = replace(best.outcome, history=history, rows=rows)
        layers = job.params.layers if job.params.mutual is None else job.params.mutual.students[best.index]
        trainings = [*self.teaching.outcomes, best.outcome]
        choices = math.prod([len(self.students), *(training.choices for training in trainings)])
        return TrainedStudent(self.students[best.index], layers, outcome, scores, choices)

    def _dev_score(self) -> Callable[[PreTrainedModel], Score]:
        job = self.job
        params, rows = job.params, job.data.student
        logits = None
        # A single evaluation is the best in any case, and answers about other tokens cannot be compared.
        if params.epochs * params.evaluations_per_epoch > 1 and job.data.positions is None:
            with job.clock("inference"):
                logits = job.teacher.dev_logits
        return dev_score(job.data.task, rows.dev, self.setting, labels=rows.dev_labels, teacher_logits=logits)


@dataclass(frozen=True)
class TrainedStudent:
    """The student that is kept.

    Attributes:
        model: the student, with the weights of its best dev score.
        layers: it started from, of the teacher or of its checkpoint.
        outcome: of the training; history and rows are also the assistants'.
        scores: dev scores of the assistants, and of several students that taught each other.
        choices: models among which dev chose: each choice of an assistant leads to other students.
    """

    model: PreTrainedModel
    layers: list[int]
    outcome: Outcome
    scores: dict[str, float]
    choices: int
