"""The output layer of a model: find it, and reorder its rows to match the labels of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def label_order(answered: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each label of the data its index among a teacher's labels; -1 if the teacher lacks it."""
    indices = {label: index for index, label in enumerate(answered)}
    return [indices.get(label, -1) for label in labels]


def reorder_labels(model: PreTrainedModel, order: Sequence[int], labels: Sequence[str]) -> None:
    """Reorder the rows of a model's output layer to match the labels of the data, in place, and name them.

    Args:
        model: a model with a linear output layer.
        order: for each label the row of its output; -1 for a label without one, whose logit will be 0.
        labels: names of the labels.

    Raises:
        ModelError: the model has no linear output layer.
    """
    import torch

    layer = output_layer(model)
    index = torch.tensor(list(order))
    with torch.no_grad():
        has_row = index >= 0
        layer.weight = torch.nn.Parameter(layer.weight[index] * has_row.unsqueeze(-1))
        layer.bias = torch.nn.Parameter(layer.bias[index] * has_row)
    layer.out_features = model.num_labels = len(labels)
    model.config.id2label = {position: str(label) for position, label in enumerate(labels)}
    model.config.label2id = {str(label): position for position, label in enumerate(labels)}


def output_layer(model: PreTrainedModel) -> Any:
    """Find the linear layer that computes the logits.

    Raises:
        ModelError: there is none with an output for each label.
    """
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    matching = [module for module in linear if module.out_features == model.config.num_labels]
    if not matching:
        raise ModelError(f"{type(model).__name__} has no linear output layer of {model.config.num_labels} labels")
    return matching[-1]
