"""Build the kind of student that `distill.student` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from potstill.config.student_params import ConfigStudent, DistilBertStudent, StaticStudent, StudentKind
from potstill.models.students.student import distilbert_from_bert, student_at_random, student_from_layers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


def start_student(
    kind: StudentKind,
    parent: PreTrainedModel,
    layers: Sequence[int],
    *,
    pair: bool,
    tokenizer: Callable[[], Tokenizer],
) -> PreTrainedModel:
    """Build an untrained student; random weights are drawn from torch's current seed.

    Args:
        kind: the value of `distill.student`.
        parent: the model whose layers, or whose class and labels, the student takes: the teacher, an assistant or a
            checkpoint.
        layers: the parent's layers to take, counted from 0.
        pair: whether the task is about pairs of texts.
        tokenizer: returns the parent's tokenizer; only a static student needs it.

    Raises:
        ModelError: layers, sizes or the parent's class do not fit.
    """
    if isinstance(kind, DistilBertStudent):
        return distilbert_from_bert(parent, layers, pair=pair)
    if isinstance(kind, StaticStudent):
        from potstill.models.students.static import static_from_teacher

        return static_from_teacher(parent, tokenizer(), kind.dimensions)
    if isinstance(kind, ConfigStudent):
        return student_at_random(parent, len(layers), **kind.model_dump(exclude={"kind"}))
    return student_from_layers(parent, layers)
