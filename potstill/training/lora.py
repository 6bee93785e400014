"""Low-rank adaptation during training, by the library `peft`.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": a trained product B A of rank r, scaled by
alpha / r, is added to a frozen linear layer W. It is merged into W after training, so that the saved model is plain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from potstill.config.training_params import Lora
from potstill.errors import ModelError
from potstill.models.cohort import each_model
from potstill.pretrained.families import Family, family_of, layers_of, layers_path

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Fields of `families.Family` that are linear layers.
_LINEAR = ("query", "key", "value", "qkv", "attention_out", "ffn_in", "ffn_out")


@contextmanager
def low_rank(model: nn.Module, lora: Lora | None, section: str) -> Iterator[None]:
    """Train only low-rank matrices and the head of a model inside the block, and merge the matrices afterwards.

    All other weights are frozen, embeddings included. The matrices are initialised from torch's current random state,
    and their product is 0.

    Args:
        model: a model of a class in `families.FAMILIES`, or a cohort of such models.
        lora: the setting of params; None does nothing.
        section: section of params, for error messages.

    Raises:
        ModelError: the model's class is not supported, or lacks a layer that params name.
    """
    if lora is None:
        yield
        return
    tuners = [_inject(member, lora, section) for member in each_model(model)]
    try:
        yield
    finally:
        for tuner in tuners:
            tuner.merge_and_unload()


def target_layers(model: PreTrainedModel, targets: Sequence[str] | None, section: str) -> list[str]:
    """List the paths of the linear layers to adapt.

    Args:
        model: a model of a class in `families.FAMILIES`.
        targets: fields of `families.Family`; None selects queries and values.
        section: section of params, for error messages.

    Raises:
        ModelError: the class is not supported, or lacks one of the layers.
    """
    family = family_of(model.config)
    available = [name for name in _LINEAR if getattr(family, name) is not None]
    if targets is None:
        targets = ["query", "value"] if family.qkv is None else ["qkv"]
    missing = [name for name in targets if name not in available]
    if missing:
        raise ModelError(
            f"{section}.lora.targets names {missing[0]}, which layers of a {model.config.model_type} do not have; "
            f"they have {', '.join(available)}"
        )
    prefix = layers_path(model)
    return [f"{prefix}.{n}.{getattr(family, name)}" for n in range(len(layers_of(model))) for name in targets]


def _inject(model: PreTrainedModel, lora: Lora, section: str) -> Any:
    """Add the matrices to the model, in place, and return the tuner that merges them."""
    from peft.tuners.lora import LoraConfig, LoraModel

    head = _head(model, family_of(model.config))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_layers(model, lora.targets, section),
    )
    tuner = LoraModel(model, {"default": config}, "default")
    for weight in head:
        weight.requires_grad_(True)
    return tuner


def _head(model: PreTrainedModel, family: Family) -> list[nn.Parameter]:
    """The weights of head and pooler, which are fully trained because a new task initialises them at random."""
    if model.base_model is model:
        return []
    base = f"{model.base_model_prefix}."
    pooler = f"{family.head}." if family.pooler else None
    return [
        weight
        for name, weight in model.named_parameters()
        if not name.startswith(base) or (pooler is not None and name.startswith(pooler))
    ]
