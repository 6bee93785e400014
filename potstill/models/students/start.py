"""Starting a task's student from general distillation instead of its teacher's layers."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from potstill.errors import ModelError
from potstill.models.loading import load_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def start_from_general(student: PreTrainedModel, general: Path) -> None:
    """Copy the embeddings and layers of a general student into a task's student, which keeps its head and pooler.

    Args:
        student: the student of a task, changed in place.
        general: the folder of the general student, of the same layers.

    Raises:
        ModelError: the two students differ in class or shape.
    """
    student_state = student.base_model.state_dict()
    pooler = {name: value for name, value in student_state.items() if is_pooler(name)}
    general_state = {name: value for name, value in load_encoder(general).state_dict().items() if not is_pooler(name)}
    try:
        student.base_model.load_state_dict(general_state | pooler)
    except RuntimeError as error:
        raise ModelError(
            f"the general student in {general} differs in shape from the student of distill "
            f"({shorten(str(error), 240, placeholder=' ...')}); "
            "give both the same layers and vocabulary, or set general.layers to null"
        ) from error


def is_pooler(name: str) -> bool:
    """Whether a weight of a base model belongs to its pooler, which is part of a task's head."""
    return name.startswith("pooler.")
