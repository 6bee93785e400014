"""A student built from chosen layers of its teacher (Sanh et al. 2019, DistilBERT, section 3)."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from potstill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How each class of transformers names its layers inside the base model.
LAYERS = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "camembert": "encoder.layer",
    "electra": "encoder.layer",
    "mpnet": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "distilbert": "transformer.layer",
}


def check_layers(layers: Sequence[int], available: int, where: str) -> None:
    """Refuse layers that the teacher does not have.

    Raises:
        ModelError: a layer is out of range.
    """
    beyond = [layer for layer in layers if layer >= available]
    if beyond:
        raise ModelError(
            f"distill.layers names layer {beyond[0]}, but the teacher in {where} has {available} layers "
            f"(0 to {available - 1})"
        )


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A model of the teacher's class with copies of its embeddings, pooler, head and the given layers.

    Args:
        teacher: any sequence model of a class in `LAYERS`.
        layers: teacher layers from 0, in the order in which the student stacks them.

    Raises:
        ModelError: a layer does not exist, or the class is not known.
    """
    kind = teacher.config.model_type
    if kind not in LAYERS:
        raise ModelError(
            f"students of a {kind} teacher are not supported: where it keeps its layers is not known "
            f"(known: {', '.join(LAYERS)})"
        )
    check_layers(layers, teacher.config.num_hidden_layers, teacher.config.name_or_path or "memory")
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    student = type(teacher)(config)
    student.load_state_dict(_chosen(teacher, layers, LAYERS[kind]))
    return student.eval()


def _chosen(teacher: PreTrainedModel, layers: Sequence[int], path: str) -> dict[str, object]:
    """The teacher's state with the chosen layers renumbered and the others left out."""
    pattern = re.compile(rf"^((?:.*\.)?{re.escape(path)}\.)(\d+)(\..+)$")
    state: dict[str, object] = {}
    for name, value in teacher.state_dict().items():
        found = pattern.match(name)
        if found is None:
            state[name] = value
            continue
        for position, layer in enumerate(layers):
            if int(found[2]) == layer:
                state[f"{found[1]}{position}{found[3]}"] = value
    return state
