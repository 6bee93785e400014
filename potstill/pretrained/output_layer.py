"""The layer that gives a model's logits, and its rows in another order of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def label_order(answered: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each of our labels its index among those that a teacher answers; -1: it does not."""
    places = {label: index for index, label in enumerate(answered)}
    return [places.get(label, -1) for label in labels]


def reorder_labels(model: PreTrainedModel, order: Sequence[int], labels: Sequence[str]) -> None:
    """Put the rows of the output layer into our label order, in place, and name them.

    Args:
        model: has such a layer.
        order: for each of our labels its row; -1: none, its logit is 0 then.
        labels: their names.
    """
    import torch

    layer = output_layer(model)
    index = torch.tensor(list(order))
    with torch.no_grad():
        has = index >= 0
        layer.weight = torch.nn.Parameter(layer.weight[index] * has.unsqueeze(-1))
        layer.bias = torch.nn.Parameter(layer.bias[index] * has)
    layer.out_features = model.num_labels = len(labels)
    model.config.id2label = {position: str(label) for position, label in enumerate(labels)}
    model.config.label2id = {str(label): position for position, label in enumerate(labels)}


def output_layer(model: PreTrainedModel) -> Any:
    """The linear layer that gives the logits."""
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    matching = [module for module in linear if module.out_features == model.config.num_labels]
    if not matching:
        raise ModelError(f"{type(model).__name__} has no linear output layer of {model.config.num_labels} labels")
    return matching[-1]
