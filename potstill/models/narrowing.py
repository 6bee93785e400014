"""Models made narrower: feed-forward units of every layer removed, as many in each so that the class stays the same.

Attention heads cannot be removed that way: in the classes of transformers the size of a head is the hidden size divided
by the number of heads, so that a saved model of fewer heads would load with larger ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from potstill.errors import ModelError
from potstill.models.families import family_of, layers_of, layers_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ints = npt.NDArray[np.int64]


def most_important(importance: npt.NDArray[np.floating], count: int) -> Ints:
    """The `count` units of highest importance, ascending; of equals the first.

    Args:
        importance: [units].
        count: of these.

    Raises:
        ModelError: there are fewer units.
    """
    if count > len(importance):
        raise ModelError(
            f"distill.prune.ffn is {count}, but the student has {len(importance)} feed-forward units in each layer; "
            "set fewer"
        )
    return np.sort(np.argsort(-importance, kind="stable")[:count]).astype(np.int64)


def narrow(model: PreTrainedModel, units: Sequence[Sequence[int] | Ints]) -> PreTrainedModel:
    """A copy of a model with only the given feed-forward units of each layer; the others count as 0.

    Args:
        model: of a class in `families.FAMILIES`, with or without a head.
        units: for each layer the units to keep, from 0; equally many in each.

    Raises:
        ModelError: the class is not known, or a unit does not exist.
    """
    import torch

    family = family_of(model.config)
    available = getattr(model.config, family.intermediate_key)
    kept = [sorted({int(unit) for unit in layer}) for layer in units]
    sizes = {len(layer) for layer in kept}
    if len(kept) != len(layers_of(model)) or len(sizes) != 1 or 0 in sizes:
        raise ModelError("give equally many feed-forward units, at least one, for each layer of the model")
    beyond = [unit for layer in kept for unit in layer if not 0 <= unit < available]
    if beyond:
        raise ModelError(f"unit {beyond[0]} does not exist: a layer has {available} feed-forward units")
    config = copy.deepcopy(model.config)
    setattr(config, family.intermediate_key, len(kept[0]))
    with torch.random.fork_rng(devices=[]):
        narrowed = type(model)(config)
    state = dict(model.state_dict())
    path = layers_path(model)
    for number, layer in enumerate(kept):
        rows = torch.tensor(layer)
        # Gated: the inputs of the activation, then as many gates.
        incoming = torch.cat([rows, rows + available]) if family.gated else rows
        for name, index, dimension in (
            (f"{family.ffn_in}.weight", incoming, 0),
            (f"{family.ffn_in}.bias", incoming, 0),
            (f"{family.ffn_out}.weight", rows, 1),
        ):
            key = f"{path}.{number}.{name}"
            if key in state:
                state[key] = state[key].index_select(dimension, index.to(state[key].device))
    narrowed.load_state_dict(state)
    return narrowed.eval()
