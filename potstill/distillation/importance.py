"""Importance of a model's feed-forward units, attention heads and hidden states to a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Ints, TokenDataset, sorted_batches
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep
from potstill.distillation.teachers.outputs import observe
from potstill.distillation.teachers.predict import model_inputs
from potstill.pretrained.families import Family, family_of, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """The importance of a model's parts to a loss.

    Attributes:
        units: for each layer, [units] of its feed-forward network.
        heads: for each layer, [heads] of its attention.
        states: [hidden size] of the states that all layers share, summed over all norms.
    """

    units: list[Floats]
    heads: list[Floats]
    states: Floats


def measure_importance(
    model: PreTrainedModel,
    dataset: TokenDataset,
    objective: Objective,
    *,
    batch_tokens: int,
    rows: Ints | None = None,
) -> Importance:
    """Estimate how much the loss changes when a part of a model is set to 0.

    The importance of a part with output a is the mean over rows of |sum over tokens of a * dL/da|, which to first order
    is the change of a row's loss (Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2;
    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference"). The output of a
    unit is that of its activation function, and the output of a state is that of the norms before and inside a layer.

    Args:
        model: a model of a class in `families.FAMILIES`. It runs in fp32 and evaluation mode on its own device; its
            weights, gradients and mode stay the same.
        dataset: the rows, by whose numbers the objective reads signals.
        objective: a loss on logits.
        batch_tokens: padded tokens of a batch.
        rows: numbers of the rows to measure on; None takes all.

    Raises:
        ModelError: the class is not supported.
    """
    family = family_of(model.config)
    layers = layers_of(model)
    heads = getattr(model.config, family.heads_key)
    ffn = [layer.get_submodule(family.ffn_out) for layer in layers]
    attention = [layer.get_submodule(family.attention_out) for layer in layers]
    of_attention = slice(len(ffn), len(ffn) + len(attention))
    norms = _norms(model, family)
    sums: list[Tensor] | None = None
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    measured = np.arange(len(dataset)) if rows is None else rows
    for part in sorted_batches(dataset.lengths[measured], batch_tokens):
        batch = dataset.batch(measured[part])
        with _activations(inputs_of=[*ffn, *attention], outputs_of=norms) as activations:
            outputs = observe(model, model_inputs(batch, device))
        loss = torch.stack(list(objective(outputs, batch, OptimizerStep.of([batch])).values())).sum()
        # The loss is a mean over the batch; times its rows, it adds up over batches of any size.
        gradients = torch.autograd.grad(loss * len(part), activations)
        changes = [(a.detach() * g).sum(dim=1).double() for a, g in zip(activations, gradients, strict=True)]
        changes[of_attention] = [change.reshape(len(change), heads, -1).sum(dim=2) for change in changes[of_attention]]
        batch_sums = [change.abs().sum(dim=0) for change in changes]
        sums = batch_sums if sums is None else [total + part for total, part in zip(sums, batch_sums, strict=True)]
    model.train(was_training)
    means = [(total / len(measured)).cpu().numpy() for total in sums or []]
    count = len(layers)
    return Importance(means[:count], means[count : 2 * count], np.sum(means[2 * count :], axis=0))


def _norms(model: PreTrainedModel, family: Family) -> list[nn.Module]:
    """The norms whose outputs the layers read: those of the embeddings and of each layer."""
    norms = [model.base_model.get_submodule(family.embeddings_norm)]
    names = (family.attention_norm, family.ffn_norm)
    norms += [layer.get_submodule(name) for layer in layers_of(model) for name in names]
    # A first layer without a norm before its attention has another module there, and reads the embeddings' norm. Of
    # ELECTRA's narrower embeddings the layers read a projection, which has no norm.
    width = getattr(model.config, family.hidden_key)
    return [norm for norm in norms if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (width,)]


@contextmanager
def _activations(inputs_of: list[nn.Module], outputs_of: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Capture the inputs of some modules, then the outputs of others, each [batch, tokens, features].

    The list that is yielded is filled when the block ends.
    """
    captured: dict[nn.Module, Tensor] = {}

    def save_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        captured[module] = args[0]

    def save_output(module: nn.Module, _: Any, output: Tensor) -> None:
        captured[module] = output

    activations: list[Tensor] = []
    with ExitStack() as hooks:
        for module in inputs_of:
            hooks.enter_context(module.register_forward_pre_hook(save_input))
        for module in outputs_of:
            hooks.enter_context(module.register_forward_hook(save_output))
        yield activations
    activations += [captured[module] for module in (*inputs_of, *outputs_of)]
