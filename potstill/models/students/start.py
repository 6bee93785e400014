"""What a task's student starts from beside its teacher's layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import ModelError
from potstill.models.loading import load_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def start_from_general(student: PreTrainedModel, general: Path) -> None:
    """Give a student the embeddings and layers of a general student; its head stays, and so does its pooler.

    Args:
        student: of any task, changed in place.
        general: a folder with a general student of the same layers.

    Raises:
        ModelError: its class or its shape differs.
    """
    own = student.base_model.state_dict()
    theirs = {name: value for name, value in load_encoder(general).state_dict().items() if not is_pooler(name)}
    try:
        student.base_model.load_state_dict(theirs | {name: own[name] for name in own if is_pooler(name)})
    except RuntimeError as error:
        raise ModelError(
            f"the general student in {general} has not the form of distill's ({' '.join(str(error).split())[:200]}); "
            "give both the same layers and vocabulary, or set general.layers to null"
        ) from error


def is_pooler(name: str) -> bool:
    """Whether a weight of a base model is part of a task's head."""
    return name.startswith("pooler.")
