"""How much a unit of a model matters to a loss, before anything is removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.data.batches import TokenDataset, sorted_batches
from potstill.distillation.objective import Objective, Window
from potstill.distillation.outputs import observe
from potstill.models.families import family_of, layers_of
from potstill.training.predict import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unit_importance(
    model: PreTrainedModel, dataset: TokenDataset, objective: Objective, *, batch_tokens: int
) -> list[npt.NDArray[np.float64]]:
    """For each layer, [units] of its feed-forward network: the mean over rows of |sum over tokens of a * dL/da|.

    a is what the unit gives after the activation function. To first order it is what a row's loss changes by when the
    unit is held at 0 (Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2, there for heads;
    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference").

    Args:
        model: of a class in `families.FAMILIES`; runs in evaluation mode, in fp32, where it is; its weights, their
            gradients and its mode stay as they are.
        dataset: rows to judge by.
        objective: the loss, which needs logits alone.
        batch_tokens: padded tokens of one batch.

    Raises:
        ModelError: the class is not known.
    """
    family = family_of(model.config)
    outs = [layer.get_submodule(family.ffn_out) for layer in layers_of(model)]
    found = [np.zeros(out.get_parameter("weight").shape[1], dtype=np.float64) for out in outs]
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    for rows in sorted_batches(dataset.lengths, batch_tokens):
        batch = dataset.batch(rows)
        with _inputs_of(outs) as activations:
            outputs = observe(model, model_inputs(batch, device))
        loss = torch.stack(list(objective(outputs, batch, Window.of([batch])).values())).sum()
        # The mean over a batch: times its rows, it adds up over batches of any size.
        gradients = torch.autograd.grad(loss * len(rows), activations)
        for total, activation, gradient in zip(found, activations, gradients, strict=True):
            total += (activation.detach() * gradient).sum(dim=1).abs().sum(dim=0).double().cpu().numpy()
    model.train(was_training)
    return [total / max(len(dataset), 1) for total in found]


@contextmanager
def _inputs_of(modules: list[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """What the modules take in, [batch, tokens, units] each, in their order, while the block runs."""
    caught: list[Tensor] = []

    def take(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args[0])

    handles = [module.register_forward_pre_hook(take) for module in modules]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
