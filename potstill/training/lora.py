"""Low-rank adaptation through the `peft` library, for as long as a model trains.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": a frozen linear layer W gains a trained product
B A of rank r, scaled by alpha / r. It is added to W in the end, so that what is saved is a plain model.
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
    """Have a model train low-rank matrices and its head inside the block, and be plain again behind it.

    Inside, all else is frozen, the embeddings too. The matrices start from torch's current random state, such that
    their product is 0.

    Args:
        model: of a class in `families.FAMILIES`, or a cohort of such.
        lora: None: nothing happens.
        section: of params, for the message.

    Raises:
        ModelError: the model's class is not known, or has no such layer.
    """
    if lora is None:
        yield
        return
    tuners = [_inject(one, lora, section) for one in each_model(model)]
    try:
        yield
    finally:
        for tuner in tuners:
            tuner.merge_and_unload()
        model.requires_grad_(True)


def target_layers(model: PreTrainedModel, targets: Sequence[str] | None, section: str) -> list[str]:
    """The paths of the linear layers that adapt.

    Args:
        model: of a known class.
        targets: fields of `families.Family`; None: those of queries and values.
        section: of params, for the message.

    Raises:
        ModelError: the class is not known, or has no such layer.
    """
    family = family_of(model.config)
    known = [name for name in _LINEAR if getattr(family, name) is not None]
    wanted = (["query", "value"] if family.qkv is None else ["qkv"]) if targets is None else targets
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ModelError(
            f"{section}.lora.targets names {missing[0]}, which layers of a {model.config.model_type} do not have; "
            f"they have {', '.join(known)}"
        )
    prefix = layers_path(model)
    return [f"{prefix}.{n}.{getattr(family, name)}" for n in range(len(layers_of(model))) for name in wanted]


def _inject(model: PreTrainedModel, lora: Lora, section: str) -> Any:
    """Put the matrices into the model, in place; the tuner that merges them."""
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
    """The weights outside of the base model, and its pooler: a new task starts them at random, so they train whole."""
    if model.base_model is model:
        return []
    base = f"{model.base_model_prefix}."
    pooler = f"{family.head}." if family.pooler else None
    return [
        weight
        for name, weight in model.named_parameters()
        if not name.startswith(base) or (pooler is not None and name.startswith(pooler))
    ]
