"""Structured pruning: remove feed-forward units from every layer, or attention heads together with hidden states.

Every layer loses the same number, so that the model's class stays the same. In transformers the size of a head is the
hidden size divided by the number of heads. Heads can therefore only be removed together with the matching number of
hidden states, which all layers share.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.errors import ModelError
from potstill.pretrained.families import Family, family_of, layers_of, layers_path

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Ints = npt.NDArray[np.int64]
Parts = Sequence[int] | Ints


def most_important(importance: npt.NDArray[np.floating], count: int, name: str) -> Ints:
    """Select the `count` most important parts, as ascending indices; among equals the first.

    Args:
        importance: [parts] importance of each part.
        count: number of parts to select.
        name: name of the parts and of their key in params, for the error message.

    Raises:
        ModelError: there are fewer than `count` parts.
    """
    if count > len(importance):
        raise ModelError(f"{count} {name} were to stay, but the student has {len(importance)}; set fewer")
    return np.sort(np.argsort(-importance, kind="stable")[:count]).astype(np.int64)


def head_size(model: PreTrainedModel) -> int:
    """Return the number of hidden states of one attention head."""
    family = family_of(model.config)
    return int(getattr(model.config, family.hidden_key) // getattr(model.config, family.heads_key))


def narrow(model: PreTrainedModel, units: Sequence[Parts]) -> PreTrainedModel:
    """Copy a model with only some feed-forward units of each layer, as if the others always gave 0.

    Args:
        model: a model of a class in `families.FAMILIES`, with or without a head.
        units: for each layer the units to keep, counted from 0; the same number in each layer.

    Raises:
        ModelError: the class is not supported, or a unit does not exist.
    """
    import torch

    family = family_of(model.config)
    available = getattr(model.config, family.intermediate_key)
    kept_units = _checked_parts(model, units, available, "feed-forward unit")
    path = layers_path(model)
    index: dict[tuple[str, int], Tensor] = {}
    for number, layer in enumerate(kept_units):
        rows = torch.tensor(layer)
        # The outputs of a gated layer are the inputs of the activation, followed by the gates.
        incoming = torch.cat([rows, rows + available]) if family.gated else rows
        index[f"{path}.{number}.{family.ffn_in}.weight", 0] = incoming
        index[f"{path}.{number}.{family.ffn_in}.bias", 0] = incoming
        index[f"{path}.{number}.{family.ffn_out}.weight", 1] = rows
    return _selected(model, {family.intermediate_key: len(kept_units[0])}, index, None)


def narrow_states(model: PreTrainedModel, states: Parts, heads: Sequence[Parts]) -> PreTrainedModel:
    """Copy a model with only some hidden states, and only some attention heads of each layer.

    The norms see fewer states than before. The copy is therefore a starting point for training and does not compute
    the same as the model with the other states set to 0 (Xia et al. 2022, "Structured Pruning Learns Compact and
    Accurate Models").

    Args:
        model: a model of a class in `families.FAMILIES` with plain attention, with or without a head.
        states: hidden states to keep, counted from 0; as many as the kept heads have together.
        heads: for each layer the heads to keep, counted from 0; the same number in each layer.

    Raises:
        ModelError: the class is not supported, its attention is not plain, or states and heads do not fit together.
    """
    import torch

    family = family_of(model.config)
    if not family.plain_attention:
        raise ModelError(
            f"a {model.config.model_type} student cannot lose states: its attention has more than queries and keys; "
            "leave out distill.prune.width"
        )
    size = head_size(model)
    width = getattr(model.config, family.hidden_key)
    kept_heads = _checked_parts(model, heads, width // size, "attention head")
    chosen = [int(state) for state in states]
    if len(set(chosen)) != len(kept_heads[0]) * size or not all(0 <= state < width for state in chosen):
        raise ModelError(
            f"{len(kept_heads[0])} heads of {size} states each need as many different states of the {width}"
        )
    path = layers_path(model)
    index: dict[tuple[str, int], Tensor] = {}
    for number, layer in enumerate(kept_heads):
        inner = torch.cat([torch.arange(head * size, (head + 1) * size) for head in layer])
        for name in (family.query, family.key, family.value):
            index[f"{path}.{number}.{name}.weight", 0] = inner
            index[f"{path}.{number}.{name}.bias", 0] = inner
        index[f"{path}.{number}.{family.attention_out}.weight", 1] = inner
    return _selected(model, _sizes(model, family, len(chosen), len(kept_heads[0])), index, torch.tensor(chosen))


def _sizes(model: PreTrainedModel, family: Family, width: int, heads: int) -> dict[str, int]:
    """Compute the config keys that change with the hidden size, with their new values."""
    hidden_size = getattr(model.config, family.hidden_key)
    embedding_size = getattr(model.config, "embedding_size", None)
    if embedding_size == width != hidden_size:
        raise ModelError(
            f"the student's embeddings of {width} are projected to its {hidden_size} states, and a class of {width} "
            "states has no such projection; set another distill.prune.width"
        )
    sizes = {key: width for key in (family.hidden_key, *family.hidden_copies)} | {family.heads_key: heads}
    # ELECTRA projects its embeddings only if their width differs from the hidden size.
    return sizes | ({"embedding_size": width} if embedding_size == hidden_size else {})


def _checked_parts(model: PreTrainedModel, parts: Sequence[Parts], available: int, part: str) -> list[list[int]]:
    """Sort the parts of each layer, and check that they exist and are equally many."""
    kept_parts = [sorted({int(index) for index in layer}) for layer in parts]
    sizes = {len(layer) for layer in kept_parts}
    if len(kept_parts) != len(layers_of(model)) or len(sizes) != 1 or 0 in sizes:
        raise ModelError(f"give equally many {part}s, at least one, for each layer of the model")
    beyond = [index for layer in kept_parts for index in layer if not 0 <= index < available]
    if beyond:
        raise ModelError(f"{part} {beyond[0]} does not exist: a layer has {available}")
    return kept_parts


def _selected(
    model: PreTrainedModel, sizes: dict[str, int], index: dict[tuple[str, int], Tensor], states: Tensor | None
) -> PreTrainedModel:
    """Copy a model with other sizes in its config.

    A dimension of a weight is cut to the entries of `index` where it has some, else to `states` where it is too wide.
    """
    import torch

    config: Any = copy.deepcopy(model.config)
    for key, size in sizes.items():
        setattr(config, key, size)
    with torch.random.fork_rng(devices=[]):
        narrowed = type(model)(config)
    state = dict(model.state_dict())
    for key, target in narrowed.state_dict().items():
        for dimension, size in enumerate(target.shape):
            rows = index.get((key, dimension))
            if rows is None and states is not None and state[key].shape[dimension] != size:
                rows = states
            if rows is not None:
                state[key] = state[key].index_select(dimension, rows.to(state[key].device))
    narrowed.load_state_dict(state)
    return narrowed.eval()
