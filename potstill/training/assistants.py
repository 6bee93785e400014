"""A chain of assistants of falling depth, each distilled from the one before; the last one teaches the student.

Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant": a student learns less from a teacher that
is far larger than itself than from a model in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.composition import Distillation, distillation
from potstill.distillation.teachers.position_mapping import PositionMapping
from potstill.distillation.teachers.predict import predict_signals
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.models.loading import load_classifier
from potstill.models.students.student import student_from_layers
from potstill.pretrained.heads import task_of
from potstill.progress import say
from potstill.training import finished
from potstill.training.loop import Outcome, Setting, train
from potstill.training.selection import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Teaching:
    """What a student starts from and learns.

    Attributes:
        model: the teacher, or the last assistant.
        source: its outputs on the rows to learn from.
        layers: the student's layers, counted in this model.
        outcomes: how the assistants' trainings ended, in order.
    """

    model: PreTrainedModel
    source: Source
    layers: list[int]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def task(self) -> TaskKind:
        """The kind of task that the model is for."""
        return task_of(self.model)

    @property
    def history(self) -> list[tuple[int, str, float]]:
        """Losses and scores of every assistant, as `assistant_<n>_<name>` with n from 1."""
        return [
            (step, f"assistant_{number}_{name}", value)
            for number, outcome in enumerate(self.outcomes, start=1)
            for step, name, value in outcome.history
        ]

    def objective(
        self,
        params: Distill,
        student: PreTrainedModel,
        setting: Setting,
        teacher_rows: TokenDataset | None = None,
        positions: PositionMapping | None = None,
    ) -> Distillation:
        """Compose what a `distill` section has one student learn from this teacher; see `distillation` for errors."""
        return distillation(
            params,
            student,
            self.model,
            self.source,
            device=setting.device,
            precision=setting.precision,
            seed=setting.seed,
            teacher_rows=teacher_rows,
            mapping=positions,
        )


def relative_layers(assistants: Sequence[Sequence[int]], layers: Sequence[int]) -> list[list[int]]:
    """Count each assistant's layers, and the student's last, in the model before it.

    Args:
        assistants: layers of each assistant, counted in the teacher; each takes some of those of the one before.
        layers: layers of the student, counted in the teacher; some of those of the last assistant.
    """
    chain = [*map(list, assistants), list(layers)]
    return [chain[0]] + [[before.index(layer) for layer in after] for before, after in itertools.pairwise(chain)]


def through_assistants(
    params: Distill,
    teaching: Teaching,
    dataset: TokenDataset,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Teaching:
    """Train the assistants of `distill.assistants`, one after the other, under the section's own plan.

    A finished assistant is kept next to the checkpoints with its logits, and is not trained again.

    Args:
        params: names assistants and layers; the objective is the student's.
        teaching: the teacher and its outputs on the dataset.
        dataset: the rows to learn from, as the teacher's tokens.
        score: of a model on dev, as the teacher's tokens.
        setting: of the student; each assistant's checkpoints lie in a folder below.

    Raises:
        ModelError, SignalError: see `distillation`.
    """
    *hops, last = relative_layers(params.assistants, params.layers)
    for number, layers in enumerate(hops, start=1):
        teaching = _hop(params, replace(teaching, layers=layers), number, dataset, score, setting)
    return replace(teaching, layers=last)


def _hop(
    params: Distill,
    teaching: Teaching,
    number: int,
    dataset: TokenDataset,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Teaching:
    """Train an assistant and keep it with its logits on the rows, or load one that is finished."""
    # `watch` is for the student's scores, not for the assistants'.
    setting = replace(setting, checkpoints=setting.checkpoints / f"assistant-{number}", watch=None)
    folder = setting.checkpoints / "finished"
    outcome = finished.load_outcome(folder)
    was_finished = outcome is not None
    if outcome is None:
        assistant = student_from_layers(teaching.model, teaching.layers)
        outcome = train(assistant, dataset, teaching.objective(params, assistant, setting), score, setting)
        signals = predict_signals(assistant, dataset, precision=setting.precision)
        finished.save(folder, assistant.cpu(), outcome, signals)
    words = KINDS[teaching.task].scoring.words
    say(
        f"{setting.name}: assistant {number} of {len(params.assistants)}, layers {params.assistants[number - 1]} of "
        f"the teacher: dev {words} {outcome.score:.4f}{' (finished before)' if was_finished else ''}"
    )
    source = StoredSignals(finished.signals(folder), np.arange(len(dataset)))
    return Teaching(load_classifier(folder), source, [], (*teaching.outcomes, outcome))
