"""How much the parts of a model matter to a loss, before anything is removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.data.tokens.batches import Ints, TokenDataset, sorted_batches
from potstill.distillation.objective.gold_labels import Objective, Window
from potstill.distillation.teachers.outputs import observe
from potstill.distillation.teachers.predict import model_inputs
from potstill.pretrained.families import family_of, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """The importance of a model's parts.

    Attributes:
        units: for each layer, [units] of its feed-forward network.
        heads: for each layer, [heads] of its attention.
        states: [hidden] of the states that all layers read and write, over all places where a layer reads them.
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
    """The mean over rows of |sum over tokens of a * dL/da|, for each part's output a.

    A unit's is what it gives after the activation function, a head's all it gives, and a state's what the norms before
    and inside a layer give. To first order it is what a row's loss changes by when the part is held at 0 (Michel et al.
    2019, "Are Sixteen Heads Really Better than One?", equation 2; Molchanov et al. 2017, "Pruning Convolutional Neural
    Networks for Resource Efficient Inference").

    Args:
        model: of a class in `families.FAMILIES`; runs in evaluation mode, in fp32, where it is; its weights, their
            gradients and its mode stay as they are.
        dataset: the rows that the objective knows by their numbers.
        objective: the loss, which needs logits alone.
        batch_tokens: padded tokens of one batch.
        rows: numbers of those to judge by; None: all.

    Raises:
        ModelError: the class is not known.
    """
    family, layers = family_of(model.config), layers_of(model)
    heads = getattr(model.config, family.heads_key)
    ffn = [layer.get_submodule(family.ffn_out) for layer in layers]
    attention = [layer.get_submodule(family.attention_out) for layer in layers]
    norms = [model.base_model.get_submodule(family.embeddings_norm)]
    names = (family.attention_norm, family.ffn_norm)
    # A first layer without a norm before its attention reads what the embeddings' norm gives.
    norms += [layer.get_submodule(name) for layer in layers for name in names]
    norms = [norm for norm in norms if isinstance(norm, torch.nn.LayerNorm)]
    sums: list[Tensor] | None = None
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    judged = np.arange(len(dataset)) if rows is None else rows
    for part in sorted_batches(dataset.lengths[judged], batch_tokens):
        batch = dataset.batch(judged[part])
        with _caught(takes=[*ffn, *attention], gives=norms) as activations:
            outputs = observe(model, model_inputs(batch, device))
        loss = torch.stack(list(objective(outputs, batch, Window.of([batch])).values())).sum()
        # The mean over a batch: times its rows, it adds up over batches of any size.
        gradients = torch.autograd.grad(loss * len(part), activations)
        changes = [(a.detach() * g).sum(dim=1).double() for a, g in zip(activations, gradients, strict=True)]
        of_attention = slice(len(ffn), len(ffn) + len(attention))
        changes[of_attention] = [change.reshape(len(change), heads, -1).sum(dim=2) for change in changes[of_attention]]
        found = [change.abs().sum(dim=0) for change in changes]
        sums = found if sums is None else [total + part for total, part in zip(sums, found, strict=True)]
    model.train(was_training)
    means = [(total / len(judged)).cpu().numpy() for total in sums or []]
    count = len(layers)
    return Importance(means[:count], means[count : 2 * count], np.sum(means[2 * count :], axis=0))


@contextmanager
def _caught(takes: list[torch.nn.Module], gives: list[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """What modules take in, then what others give, [batch, tokens, features] each, while the block runs."""
    caught: list[Tensor | None] = [None] * (len(takes) + len(gives))
    handles = []
    for place, module in enumerate(takes):

        def take(_: torch.nn.Module, args: tuple[Any, ...], place: int = place) -> None:
            caught[place] = args[0]

        handles.append(module.register_forward_pre_hook(take))
    for place, module in enumerate(gives, start=len(takes)):

        def give(_: torch.nn.Module, __: Any, output: Tensor, place: int = place) -> None:
            caught[place] = output

        handles.append(module.register_forward_hook(give))
    found: list[Tensor] = []
    try:
        yield found
        found += [activation for activation in caught if activation is not None]
    finally:
        for handle in handles:
            handle.remove()
