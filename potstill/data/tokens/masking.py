"""Masked language modelling's inputs: which tokens are hidden, as a pure function of seed, epoch and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.batches import Batch, Ints

# Of the tokens to predict (Devlin et al. 2019, section 3.1): hidden behind the mask token, replaced by a random one;
# the rest is left as it is.
HIDDEN, REPLACED = 0.8, 0.1
# What a draw is for: each has numbers of its own.
_CHOICE, _FATE, _TOKEN = range(3)
_Unsigned = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Masking:
    """BERT's masking (Devlin et al. 2019, "BERT", section 3.1), each token on its own.

    What happens to a token depends on the seed, the epoch, its row in the dataset and its place in it, and on nothing
    else: not on the batch it is in, nor on what was drawn before, so that a resumed run sees what it would have seen.

    Attributes:
        mask: id of the mask token.
        special: ids that are never chosen nor drawn, such as padding and separators.
        vocabulary: number of ids.
        share: of the other tokens that are to be predicted.
        seed: another one, other tokens.
    """

    mask: int
    special: Sequence[int]
    vocabulary: int
    share: float
    seed: int

    @cached_property
    def ordinary(self) -> Ints:
        """The ids that a token can be replaced by, ascending."""
        return np.setdiff1d(np.arange(self.vocabulary), np.array(list(self.special)))

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """The batch with some tokens hidden or replaced.

        Its labels are [batch, sequence]: the id that was there where one is to be predicted, else -1.
        """
        ids, real = batch.input_ids, batch.attention_mask != 0
        chosen = real & ~np.isin(ids, list(self.special)) & (self._draw(batch, epoch, _CHOICE) < self.share)
        fate = self._draw(batch, epoch, _FATE)
        drawn = self.ordinary[(self._draw(batch, epoch, _TOKEN) * len(self.ordinary)).astype(np.int64)]
        seen = np.where(chosen & (fate < HIDDEN), self.mask, ids)
        seen = np.where(chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), drawn, seen)
        return replace(batch, input_ids=seen, labels=np.where(chosen, ids, -1))

    def _draw(self, batch: Batch, epoch: int, purpose: int) -> npt.NDArray[np.float64]:
        """[batch, sequence] uniform numbers in [0, 1)."""
        key = np.zeros((1, 1), dtype=np.uint64)
        for part in (np.array([[self.seed]]), np.array([[epoch]]), batch.rows[:, None], np.array([[purpose]])):
            key = _mixed(key ^ part.astype(np.uint64))
        places = np.arange(batch.input_ids.shape[1], dtype=np.uint64)[None, :]
        numbers: npt.NDArray[np.float64] = (_mixed(key + places) >> np.uint64(11)).astype(np.float64)
        return numbers * 2.0**-53


def _mixed(values: _Unsigned) -> _Unsigned:
    """SplitMix64's next number (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Unsigned = values ^ (values >> np.uint64(31))
    return mixed
