"""Aligns the units of a text with tokens by character offsets: labels to tokens, and predictions back to units.

The first token of a unit represents it: it has the unit's tag in training and predicts it later. The other tokens of
the unit and special tokens have the label `IGNORED`. If a token covers several units, it represents the first one. The
others get its prediction, with B turned into I.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potstill.labels.tags import Unit

Ints = npt.NDArray[np.int64]
# The label of a token that represents no unit; PyTorch and transformers skip this value.
IGNORED = -100
# The label of a token that represents a unit without a gold label.
UNANSWERED = -1
# The states of a unit: it has a token of its own, shares that of an earlier unit, or has none.
OWN, SHARED, CUT = 1, 0, -1
# The token index of a unit without a token: it was truncated, or the tokenizer drops it.
UNSEEN = -1


def unit_tokens(
    offsets: Sequence[tuple[int, int]] | npt.NDArray[np.integer], special: Sequence[int] | Ints, units: Sequence[Unit]
) -> Ints:
    """Find the token that represents each unit: [units] indices, UNSEEN for a unit without a token.

    Args:
        offsets: [tokens] characters of each token, as `tokenizers` gives them, with or without a leading space.
        special: [tokens] 1 on special tokens.
        units: of the same text, in order.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    real = np.flatnonzero((np.asarray(special) == 0) & (spans[:, 1] > spans[:, 0]))
    tokens = np.full(len(units), UNSEEN, dtype=np.int64)
    if not len(real) or not len(units):
        return tokens
    starts, ends = np.asarray(units, dtype=np.int64).reshape(-1, 2).T
    first = np.searchsorted(spans[real, 1], starts, side="right")
    beyond = first == len(real)
    token = real[np.minimum(first, len(real) - 1)]
    covered = ~beyond & (spans[token, 0] < ends)
    tokens[covered] = token[covered]
    return tokens


def has_own_token(tokens: Ints) -> npt.NDArray[np.bool_]:
    """Tell for each unit whether its token does not represent an earlier unit already: [units]."""
    previous = np.concatenate([[UNSEEN], tokens[:-1]]) if len(tokens) else tokens
    has_own: npt.NDArray[np.bool_] = (tokens != UNSEEN) & (tokens != previous)
    return has_own


def token_labels(tokens: Ints, tags: Sequence[int] | Ints, length: int) -> Ints:
    """Label each token with the class index of the unit that it represents, else IGNORED: [length].

    Args:
        tokens: [units] from `unit_tokens`.
        tags: [units] class indices.
        length: tokens of the row.
    """
    labels = np.full(length, IGNORED, dtype=np.int64)
    has_own = has_own_token(tokens)
    labels[tokens[has_own]] = np.asarray(tags, dtype=np.int64)[has_own]
    return labels


def flat_labels(labels: npt.NDArray[np.object_]) -> Ints:
    """Concatenate the token labels of all rows: [rows] objects to [tokens]."""
    return np.concatenate([*labels, np.empty(0, dtype=np.int64)])


def unit_states(tokens: Ints) -> Ints:
    """Derive the states of units, OWN, SHARED or CUT, from their tokens: [units]."""
    return np.where(tokens == UNSEEN, CUT, np.where(has_own_token(tokens), OWN, SHARED))


def unit_classes(answers: Ints, states: Ints) -> Ints:
    """Derive the classes of units from those of their tokens, of one row or of several concatenated ones: [units].

    A unit that shares a token gets its class, with B turned into I (`tags.tag_set`: an odd class is a B). A unit
    without a token is O.

    Args:
        answers: [answers] classes of the tokens that represent units.
        states: [units] from `unit_states`.
    """
    classes = np.zeros(len(states), dtype=np.int64)
    if not len(answers):
        return classes
    has_own = states == OWN
    token_classes = answers[np.maximum(np.cumsum(has_own) - 1, 0)]
    classes[has_own] = token_classes[has_own]
    is_shared = states == SHARED
    classes[is_shared] = token_classes[is_shared] + token_classes[is_shared] % 2
    return classes
