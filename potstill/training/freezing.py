"""Which weights of a model stay as they are during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.config.training_params import Training
from potstill.errors import ParamsError
from potstill.models.cohort import each_model
from potstill.pretrained.families import family_of, layers_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def freeze(model: nn.Module, plan: Training, name: str) -> None:
    """Freeze token embeddings, or the lowest layers with all embeddings, in place, as a plan asks for it.

    Nothing below the lowest trained layer then needs a gradient, so the backward pass ends there.

    Args:
        model: the model to train, or a cohort of models.
        plan: `freeze_embeddings` and `freeze_layers`.
        name: of the training, for the error message.

    Raises:
        ParamsError: no layer would be left to train.
        ModelError: see `family_of`.
    """
    for member in each_model(model):
        _freeze(member, plan, name)


def _freeze(model: PreTrainedModel, plan: Training, name: str) -> None:
    model.get_input_embeddings().requires_grad_(not plan.freeze_embeddings)
    if not plan.freeze_layers:
        return
    layers = layers_of(model)
    if plan.freeze_layers >= len(layers):
        raise ParamsError(
            f"{name}.freeze_layers is {plan.freeze_layers}, but the model has {len(layers)} layers, and one has to "
            f"learn; set it to at most {len(layers) - 1}"
        )
    model.base_model.get_submodule(family_of(model.config).embeddings).requires_grad_(False)
    for layer in list(layers)[: plan.freeze_layers]:
        layer.requires_grad_(False)
