"""Map a teacher's answers to a student's tokens, in tasks that answer at positions of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.batches import TokenDataset, ragged
from potstill.distillation.teachers.answer_mapping import AnswerMapping, WindowMappedSource, map_answers
from potstill.distillation.teachers.outputs import answers_of
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.token_mapping import UnitMappedSource, UnitMapping, map_units
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

PositionMapping: TypeAlias = UnitMapping | AnswerMapping


def map_positions(task: TaskKind, student: Sequence[Path], teacher: Sequence[Path]) -> PositionMapping:
    """Map the positions in a student's token files to those in a teacher's.

    Args:
        task: token classification or question answering.
        student: files of the student's tokens, one for each split.
        teacher: files of the teacher's tokens, of the same splits in the same order.

    Raises:
        SignalError: the files are not of the same texts.
    """
    return (map_answers if KINDS[task].form == "span" else map_units)(student, teacher)


def mapped_source(source: Source, rows: TokenDataset, mapping: PositionMapping) -> Source:
    """Make a source on a teacher's tokens one on a student's tokens.

    Args:
        source: provides outputs on the teacher's token ids.
        rows: the teacher's rows.
        mapping: maps the student's positions to the teacher's.
    """
    if isinstance(mapping, AnswerMapping):
        return WindowMappedSource(source, rows, mapping)
    return UnitMappedSource(source, rows, mapping)


def mapped_logits(source: Source, rows: TokenDataset, task: TaskKind) -> npt.NDArray[Any]:
    """Compute a source's logits on a student's rows, in the form that `predict_logits` returns.

    Args:
        source: the result of `mapped_source`.
        rows: the student's rows.
        task: token classification or question answering.
    """
    logits = []
    for row in range(len(rows)):
        batch = rows.batch(np.array([row]))
        logits.append(answers_of(source(batch), batch).logits_at(1.0, task).numpy())
    return ragged([spans[0] for spans in logits]) if KINDS[task].form == "span" else np.concatenate(logits)
