"""Where a teacher answers what the tokens of a student are asked, for tasks whose answers are places in a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from potstill.config.base import TaskKind
from potstill.data.tokens.batches import TokenDataset, ragged
from potstill.distillation.teachers.answer_mapping import AcrossWindows, AnswerPlaces, answer_places
from potstill.distillation.teachers.outputs import answers_of
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.token_mapping import AcrossUnits, UnitPlaces, unit_places

Places: TypeAlias = UnitPlaces | AnswerPlaces


def places_of(task: TaskKind, student: Sequence[Path], teacher: Sequence[Path]) -> Places:
    """Join the token files of a student and of a teacher, of the same splits in the same order.

    Raises:
        SignalError: they are not of the same texts.
    """
    return (answer_places if task == "question_answering" else unit_places)(student, teacher)


def across(source: Source, rows: TokenDataset, places: Places) -> Source:
    """The source that answers a student's tokens.

    Args:
        source: answers to the teacher's token ids.
        rows: the teacher's rows.
        places: where the answers to the student's rows are among them.
    """
    if isinstance(places, AnswerPlaces):
        return AcrossWindows(source, rows, places)
    return AcrossUnits(source, rows, places)


def answers_across(source: Source, rows: TokenDataset, task: TaskKind) -> npt.NDArray[Any]:
    """What a source says of a student's rows, in the form that `predict_logits` has.

    Args:
        source: of `across`.
        rows: the student's.
        task: one whose answers are places in a text.
    """
    found = []
    for row in range(len(rows)):
        batch = rows.batch(np.array([row]))
        found.append(answers_of(source(batch), batch).at(1.0, task).numpy())
    return ragged([one[0] for one in found]) if task == "question_answering" else np.concatenate(found)
