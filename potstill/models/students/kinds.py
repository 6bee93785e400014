"""A student of any kind that `distill.student` names, as it is before it learns."""

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
    """The student that a kind describes; what is random in it is drawn from torch's current seed.

    Args:
        kind: of `distill.student`.
        parent: whose layers it takes, or whose class and labels it has: the teacher, an assistant, or a checkpoint.
        layers: of the parent.
        pair: whether the task is on pairs of texts.
        tokenizer: the parent's, of which a static student asks for every token's own vector.

    Raises:
        ModelError: layers, sizes or a class that do not fit; see `potstill.models`.
    """
    if isinstance(kind, DistilBertStudent):
        return distilbert_from_bert(parent, layers, pair=pair)
    if isinstance(kind, StaticStudent):
        from potstill.models.students.static import static_from_teacher

        return static_from_teacher(parent, tokenizer(), kind.dimensions)
    if isinstance(kind, ConfigStudent):
        return student_at_random(parent, len(layers), **kind.model_dump(exclude={"kind"}))
    return student_from_layers(parent, layers)
