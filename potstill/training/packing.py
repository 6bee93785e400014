"""Packing: layers run on the real tokens of a batch only, its rows concatenated, with attention inside each row.

On a GPU attention uses torch's variable-length kernel. Elsewhere a mask separates the rows; this is slower than padding
and exists for tests. Embeddings and head still see the padded batch: they take little time, and so packing does not
depend on the model's head.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.compute.precision import Precision
from potstill.config.base import Switch
from potstill.config.training_params import Training
from potstill.data.tokens.batches import Batch
from potstill.errors import ModelError
from potstill.models.cohort import Cohort
from potstill.pretrained.families import FAMILIES, family_of, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The name of this attention implementation in transformers.
ATTENTION = "potstill_packed"
_KERNEL = "torch.nn.attention.varlen"
# Limits of the kernel: size of a head, its divisor, and the minimum compute capability of the GPU.
_LARGEST_HEAD = 256
_HEAD_STEP = 8
_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class PackedLayout:
    """The layout of a batch's real tokens.

    Attributes:
        indices: [tokens] index of each real token in the flattened padded batch.
        bounds: [rows + 1] where each row starts, and the last row ends, among the real tokens; int32.
        longest: tokens of the longest row.
    """

    indices: Tensor
    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> PackedLayout:
        """Compute the layout from a batch's attention mask, on the host so that nothing waits for a GPU."""
        real = batch.attention_mask != 0
        lengths = real.sum(axis=1)
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        indices = torch.from_numpy(np.flatnonzero(real))
        return cls(indices.to(device), torch.from_numpy(bounds).to(device), int(lengths.max(initial=1)))


_CURRENT: ContextVar[PackedLayout | None] = ContextVar("packed", default=None)


def choose_packing(
    setting: Switch, model: PreTrainedModel, plan: Training, device: torch.device, precision: Precision
) -> bool:
    """Decide whether a run uses packing; `auto` uses it on a GPU if the kernel supports the model.

    Args:
        setting: the setting `packing` of params.
        model: the model to train.
        plan: the plan of the run.
        device: device of the run.
        precision: number format of the run.

    Raises:
        ModelError: packing is set to true, but is not possible.
    """
    if setting is False or (setting == "auto" and device.type != "cuda"):
        return False
    obstacle = _obstacle(model, plan, device, precision)
    if obstacle is not None and setting is True:
        raise ModelError(f"packing is true, but {obstacle}; set packing to auto or false")
    return obstacle is None


def _obstacle(model: PreTrainedModel, plan: Training, device: torch.device, precision: Precision) -> str | None:
    if isinstance(model, Cohort):
        return "students that teach each other run one after the other"
    config = model.config
    if config.model_type not in FAMILIES or not family_of(config).plain_attention:
        return f"{config.model_type} models add positions to their attention, which rows end to end would mix up"
    if device.type != "cuda":
        return None
    if importlib.util.find_spec(_KERNEL) is None:
        return f"torch {torch.__version__} has no {_KERNEL} (2.10 or newer has)"
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return "this GPU is too old for attention over rows of different lengths"
    if precision == "fp32":
        return "attention over rows of different lengths needs project.precision bf16 or fp16"
    size = getattr(config, family_of(config).hidden_key) // getattr(config, family_of(config).heads_key)
    if size > _LARGEST_HEAD or size % _HEAD_STEP:
        return f"its attention heads have a size of {size}, which is not a multiple of 8 up to 256"
    if _attention_dropout(config) if plan.dropout is None else plan.dropout:
        return "attention over rows of different lengths has no dropout (set dropout to 0)"
    return None


def _attention_dropout(config: Any) -> float:
    return float(getattr(config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.0)))


@contextmanager
def packed(model: PreTrainedModel, batch: Batch, device: torch.device) -> Iterator[None]:
    """Run the model's layers on the batch's real tokens inside the block; their output is 0 on padding.

    Args:
        model: a model whose attention implementation is `ATTENTION`.
        batch: the batch of the forward passes.
        device: device of the model.
    """
    layout = PackedLayout.of(batch, device)
    rows, length = batch.input_ids.shape

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (_pack(args[0], layout), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": _pack(kwargs["hidden_states"], layout)}

    def leave(_: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return _unpack(output, layout, rows, length)
        return (_unpack(output[0], layout, rows, length), *output[1:])

    layers = layers_of(model)
    token = _CURRENT.set(layout)
    try:
        with (
            layers[0].register_forward_pre_hook(enter, with_kwargs=True),
            layers[-1].register_forward_hook(leave),
        ):
            yield
    finally:
        _CURRENT.reset(token)


def _pack(states: Tensor, layout: PackedLayout) -> Tensor:
    """[rows, sequence, width] -> [1, tokens, width]."""
    return states.flatten(0, 1).index_select(0, layout.indices)[None]


def _unpack(states: Tensor, layout: PackedLayout, rows: int, length: int) -> Tensor:
    """[1, tokens, width] -> [rows, sequence, width], 0 on padding."""
    empty = states.new_zeros(rows * length, states.shape[-1])
    return empty.index_copy(0, layout.indices, states[0]).view(rows, length, -1)


# --- attention --------------------------------------------------------------------------------------------------------


def register_attention() -> None:
    """Register `ATTENTION` with transformers: packed attention inside a block of `packed`, SDPA outside."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Return no mask if the rows' bounds replace it."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs) if _CURRENT.get() is None else None


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """Attend within rows: inputs are [1, heads, tokens, head size], the output is [1, tokens, heads, head size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    current = _CURRENT.get()
    if current is None:
        unpacked: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **rest)
        return unpacked
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        bounds, longest = current.bounds, current.longest
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=rest.get("scaling"))
        assert isinstance(out, Tensor)
        return out[None], None
    lengths = current.bounds.diff()
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), lengths)
    same = (owners[:, None] == owners[None, :])[None, None]
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, same, dropout_p=rest.get("dropout", 0.0), scale=rest.get("scaling")
    )
    return out.transpose(1, 2).contiguous(), None
