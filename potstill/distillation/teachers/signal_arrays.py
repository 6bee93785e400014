"""The named arrays of a store of signals, and their conversion from and to a teacher's outputs.

The arrays are `logits`; `hidden-<n>` for a hidden state; `queries-<n>`, `keys-<n>` and `values-<n>` for a layer's
attention; `first-<n>` and `mean-<n>` for the sentence vectors of a hidden state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from potstill.data.tokens.batches import Batch
from potstill.distillation.losses.tensors import SelfAttention, SentenceVectors
from potstill.distillation.teachers.outputs import Needs, Outputs, vectors_of
from potstill.distillation.teachers.providers import Source
from potstill.errors import SignalError

LOGITS_COLUMN = "logits"


@dataclass(frozen=True)
class Column:
    """One array of a store.

    Attributes:
        shape: shape of one entry, such as [classes], [members, classes] or [width].
        per_token: whether there is an entry for each real token, instead of one for each row.
    """

    shape: tuple[int, ...]
    per_token: bool

    @property
    def size(self) -> int:
        """The count of numbers of one entry."""
        return math.prod(self.shape)


def names_of(needs: Needs, stored: Needs) -> list[str]:
    """List the arrays to read; hidden states replace sentence vectors that are not stored.

    Args:
        needs: what is needed beyond logits.
        stored: what the store contains beyond logits.
    """
    hidden = needs.hidden | (needs.vectors - stored.vectors)
    return [
        LOGITS_COLUMN,
        *(f"hidden-{number}" for number in sorted(hidden)),
        *(f"{part}-{number}" for number in sorted(needs.attention) for part in SelfAttention._fields),
        *(f"{part}-{number}" for number in sorted(needs.vectors & stored.vectors) for part in SentenceVectors._fields),
    ]


def to_arrays(outputs: Outputs, needs: Needs, mask: Tensor) -> dict[str, Tensor]:
    """Convert a teacher's outputs to named arrays, each [batch, ...], or [batch, sequence, ...] with entries per token.

    Args:
        outputs: outputs that include what is needed.
        needs: what to convert beyond logits.
        mask: [batch, sequence], 0 on padding.
    """
    arrays = {LOGITS_COLUMN: outputs.logits}
    arrays |= {f"hidden-{number}": outputs.hidden[number] for number in sorted(needs.hidden)}
    for number in sorted(needs.attention):
        arrays |= {f"{part}-{number}": value for part, value in outputs.attention[number]._asdict().items()}
    for number in sorted(needs.vectors):
        arrays |= {f"{part}-{number}": value for part, value in vectors_of(outputs, number, mask)._asdict().items()}
    return arrays


def from_arrays(arrays: Mapping[str, Tensor]) -> Outputs:
    """Convert named arrays to a teacher's outputs; the inverse of `to_arrays`."""
    numbers: dict[str, list[int]] = {}
    for part, _, number in (name.partition("-") for name in arrays):
        if number:
            numbers.setdefault(part, []).append(int(number))
    return Outputs(
        arrays[LOGITS_COLUMN],
        {number: arrays[f"hidden-{number}"] for number in numbers.get("hidden", ())},
        {
            number: SelfAttention(*(arrays[f"{part}-{number}"] for part in SelfAttention._fields))
            for number in numbers.get("queries", ())
        },
        {
            number: SentenceVectors(*(arrays[f"{part}-{number}"] for part in SentenceVectors._fields))
            for number in numbers.get("first", ())
        },
    )


def columns_of(source: Source, row: Batch, needs: Needs) -> dict[str, Column]:
    """Determine the arrays of a store by running the teacher on two rows of different lengths.

    This works for logits of any form, such as those of several teachers or of each token.

    Args:
        source: the teacher.
        row: a batch of one row of the dataset.
        needs: what is stored beyond logits.

    Returns:
        Name -> form of the array.

    Raises:
        SignalError: the source cannot provide what is needed.
    """
    if not source.supports(needs):
        raise SignalError(
            f"{source.name} cannot give {described(needs)} to be stored; choose layers that it has in signals: hidden "
            "and vectors from 0 (what the first layer takes in), attention from 1"
        )
    shapes = []
    for tokens in (2, 3):
        batch = _resized(row, tokens)
        outputs = source(batch, needs)
        mask = torch.from_numpy(batch.attention_mask).to(outputs.logits.device)
        shapes.append({name: tuple(value.shape) for name, value in to_arrays(outputs, needs, mask).items()})
    short, long = shapes
    return {
        name: Column(shape[2:], per_token=True) if shape != long[name] else Column(shape[1:], per_token=False)
        for name, shape in short.items()
    }


def described(needs: Needs) -> str:
    """Name what is needed beyond logits, for messages."""
    parts = {"hidden states": needs.hidden, "attention of layers": needs.attention, "vectors of states": needs.vectors}
    return ", ".join(f"{name} {', '.join(map(str, sorted(numbers)))}" for name, numbers in parts.items() if numbers)


def _resized(row: Batch, tokens: int) -> Batch:
    """Cut a row to some tokens, or repeat its tokens if it has fewer."""
    types = row.token_type_ids
    return replace(
        row,
        input_ids=np.resize(row.input_ids, (1, tokens)),
        attention_mask=np.ones((1, tokens), dtype=np.int64),
        token_type_ids=None if types is None else np.resize(types, (1, tokens)),
    )
