"""Where a teacher answers what the tokens of a student are asked, for tasks whose answers are places in a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from potstill.config import TaskKind
from potstill.data.batches import TokenDataset
from potstill.distillation.alignment import AcrossUnits, UnitPlaces, unit_places
from potstill.distillation.answer_alignment import AcrossWindows, AnswerPlaces, answer_places
from potstill.distillation.teachers import Source

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
