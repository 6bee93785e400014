"""The named arrays of a store of signals, and how they are taken out of a teacher's outputs and put together again.

`logits`; of each hidden state n that is stored for every token `hidden-<n>`; of each layer's attention `queries-<n>`,
`keys-<n>` and `values-<n>`; of each hidden state's sentence vectors `first-<n>` and `mean-<n>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from potstill.config.teacher_params import Signals
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
        shape: what it holds of a row, or of each token of a row: [classes], [members, classes], [width].
        per_token: of each real token.
    """

    shape: tuple[int, ...]
    per_token: bool

    def size(self, tokens: int) -> int:
        """Numbers of a row of so many tokens."""
        return int(np.prod(self.shape, dtype=np.int64)) * (tokens if self.per_token else 1)


def chosen(params: Signals) -> Needs:
    """What the params of the stage ask to be stored beside logits."""
    return Needs(frozenset(params.hidden), frozenset(params.attention), frozenset(params.vectors))


def names_of(needs: Needs, held: Needs) -> list[str]:
    """The arrays that answer `needs` in a store that holds `held`; states stand in for vectors that are not there."""
    hidden = needs.hidden | (needs.vectors - held.vectors)
    return [
        LOGITS_COLUMN,
        *(f"hidden-{number}" for number in sorted(hidden)),
        *(f"{part}-{number}" for number in sorted(needs.attention) for part in SelfAttention._fields),
        *(f"{part}-{number}" for number in sorted(needs.vectors & held.vectors) for part in SentenceVectors._fields),
    ]


def take(outputs: Outputs, needs: Needs, mask: Tensor) -> dict[str, Tensor]:
    """A teacher's outputs on a batch as named arrays: [batch, ...], or [batch, sequence, ...] of each token.

    Args:
        outputs: with what is needed.
        needs: what to take beside logits.
        mask: [batch, sequence].
    """
    found = {LOGITS_COLUMN: outputs.logits}
    found |= {f"hidden-{number}": outputs.hidden[number] for number in sorted(needs.hidden)}
    for number in sorted(needs.attention):
        found |= {f"{part}-{number}": value for part, value in outputs.attention[number]._asdict().items()}
    for number in sorted(needs.vectors):
        found |= {f"{part}-{number}": value for part, value in vectors_of(outputs, number, mask)._asdict().items()}
    return found


def give(arrays: Mapping[str, Tensor]) -> Outputs:
    """Named arrays as the teacher's outputs: `take` undone."""
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
    """The arrays that a teacher's outputs make, found by asking it about two rows of other lengths.

    So a source whose logits are of another form (several teachers', or of each token) needs to declare nothing.

    Args:
        source: the teacher.
        row: a batch of one row of the dataset, whose form the two have.
        needs: what is stored beside logits.

    Raises:
        SignalError: the source cannot give it.
    """
    if not source.supports(needs):
        raise SignalError(
            f"{source.name} cannot give {described(needs)} to be stored; choose layers that it has in signals: hidden "
            "and vectors from 0 (what the first layer takes in), attention from 1"
        )
    found = []
    for tokens in (2, 3):
        batch = _resized(row, tokens)
        outputs = source(batch, needs)
        mask = torch.from_numpy(batch.attention_mask).to(outputs.logits.device)
        found.append({name: tuple(value.shape) for name, value in take(outputs, needs, mask).items()})
    short, long = found
    return {
        name: Column(shape[2:], per_token=True) if shape != long[name] else Column(shape[1:], per_token=False)
        for name, shape in short.items()
    }


def described(needs: Needs) -> str:
    """What is beside logits, as a sentence names it."""
    parts = {"hidden states": needs.hidden, "attention of layers": needs.attention, "vectors of states": needs.vectors}
    return ", ".join(f"{name} {', '.join(map(str, sorted(numbers)))}" for name, numbers in parts.items() if numbers)


def _resized(row: Batch, tokens: int) -> Batch:
    """The row's first tokens, repeated where it has fewer."""
    types = row.token_type_ids
    return replace(
        row,
        input_ids=np.resize(row.input_ids, (1, tokens)),
        attention_mask=np.ones((1, tokens), dtype=np.int64),
        token_type_ids=None if types is None else np.resize(types, (1, tokens)),
    )
