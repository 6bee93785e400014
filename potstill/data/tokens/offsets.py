"""Units of a text and tokens of a tokenizer, met through character offsets: labels one way, predictions the other.

The first token of a unit speaks for it: it carries the unit's tag in training and gives it in prediction. Further
tokens of the unit and special tokens carry `IGNORED`. Where one token covers several units, it speaks for the first;
the others take its prediction, B turned into I.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potstill.labels.tags import Unit

Ints = npt.NDArray[np.int64]
# A token that is asked nothing; the value that PyTorch and transformers skip.
IGNORED = -100
# A token that answers, but has no gold label.
UNANSWERED = -1
# How a unit is seen: by a token that speaks for it first, by one that speaks for an earlier unit, or not at all.
OWN, SHARED, CUT = 1, 0, -1
# A unit without a token: beyond the truncation, or unknown to the tokenizer.
UNSEEN = -1


def speakers(
    offsets: Sequence[tuple[int, int]] | npt.NDArray[np.integer], special: Sequence[int] | Ints, units: Sequence[Unit]
) -> Ints:
    """[units] index of the token that speaks for each unit, UNSEEN where there is none.

    Args:
        offsets: [tokens] characters of each token, as `tokenizers` gives them; a leading space may be in or not.
        special: [tokens] 1 on special tokens.
        units: of the same text, in order.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    real = np.flatnonzero((np.asarray(special) == 0) & (spans[:, 1] > spans[:, 0]))
    found = np.full(len(units), UNSEEN, dtype=np.int64)
    if not len(real) or not len(units):
        return found
    starts, ends = np.asarray(units, dtype=np.int64).reshape(-1, 2).T
    first = np.searchsorted(spans[real, 1], starts, side="right")
    beyond = first == len(real)
    token = real[np.minimum(first, len(real) - 1)]
    covered = ~beyond & (spans[token, 0] < ends)
    found[covered] = token[covered]
    return found


def own_token(tokens: Ints) -> npt.NDArray[np.bool_]:
    """[units] whether a unit's token speaks for it first, and not for an earlier unit already."""
    before = np.concatenate([[UNSEEN], tokens[:-1]]) if len(tokens) else tokens
    own: npt.NDArray[np.bool_] = (tokens != UNSEEN) & (tokens != before)
    return own


def token_labels(tokens: Ints, tags: Sequence[int] | Ints, length: int) -> Ints:
    """[length] label of each token: the class index of the unit it speaks for, else IGNORED.

    Args:
        tokens: [units] of `speakers`.
        tags: [units] class indices.
        length: tokens of the row.
    """
    labels = np.full(length, IGNORED, dtype=np.int64)
    own = own_token(tokens)
    labels[tokens[own]] = np.asarray(tags, dtype=np.int64)[own]
    return labels


def flat_labels(labels: npt.NDArray[np.object_]) -> Ints:
    """[tokens] labels of all rows, one after the other, of [rows] objects."""
    return np.concatenate([*labels, np.empty(0, dtype=np.int64)])


def sight(tokens: Ints) -> Ints:
    """[units] OWN, SHARED or CUT, from the tokens that speak for them."""
    return np.where(tokens == UNSEEN, CUT, np.where(own_token(tokens), OWN, SHARED))


def unit_classes(answers: Ints, seen: Ints) -> Ints:
    """[units] classes from the classes [answers] of the tokens that speak, of one row or of many, one after the other.

    A unit that shares a token takes its class, B turned into I (`tags.tag_set`: an odd class is a B); a unit that has
    no token is O.
    """
    own = seen == OWN
    classes = np.zeros(len(seen), dtype=np.int64)
    if not len(answers):
        return classes
    spoken = answers[np.maximum(np.cumsum(own) - 1, 0)]
    classes[own] = spoken[own]
    shared = seen == SHARED
    classes[shared] = spoken[shared] + spoken[shared] % 2
    return classes
