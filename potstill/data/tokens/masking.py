"""Masks tokens for masked language modelling, as a pure function of seed, epoch and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.batches import Batch, Ints

# Of the tokens to predict, the shares that become the mask token and a random token. The rest stays unchanged
# (Devlin et al. 2019, section 3.1).
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1
# The purposes of a draw. Each has random numbers of its own.
_CHOICE, _ACTION, _TOKEN = range(3)
_Unsigned = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Masking:
    """BERT's masking (Devlin et al. 2019, "BERT", section 3.1), independent for each token.

    The masking of a token depends only on the seed, the epoch, its row in the dataset and its position in the row. It
    does not depend on the batch or on earlier draws, so a resumed run sees the same tokens.

    Attributes:
        mask: id of the mask token.
        special: ids that are never chosen or drawn, such as padding and separators.
        vocabulary: number of ids.
        share: the share of the other tokens to predict.
        seed: of the draws.
    """

    mask: int
    special: Sequence[int]
    vocabulary: int
    share: float
    seed: int

    @cached_property
    def ordinary(self) -> Ints:
        """The ids that can replace a token, ascending."""
        return np.setdiff1d(np.arange(self.vocabulary), np.array(list(self.special)))

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Mask or replace some tokens of a batch.

        The labels of the result are [batch, sequence]: the original id of a token to predict, else -1.
        """
        ids = batch.input_ids
        real = batch.attention_mask != 0
        chosen = real & ~np.isin(ids, list(self.special)) & (self._draw(batch, epoch, _CHOICE) < self.share)
        action = self._draw(batch, epoch, _ACTION)
        drawn = self.ordinary[(self._draw(batch, epoch, _TOKEN) * len(self.ordinary)).astype(np.int64)]
        seen = np.where(chosen & (action < MASKED_SHARE), self.mask, ids)
        seen = np.where(chosen & (action >= MASKED_SHARE) & (action < MASKED_SHARE + RANDOM_SHARE), drawn, seen)
        return replace(batch, input_ids=seen, labels=np.where(chosen, ids, -1))

    def _draw(self, batch: Batch, epoch: int, purpose: int) -> npt.NDArray[np.float64]:
        """Draw [batch, sequence] uniform numbers in [0, 1)."""
        key = np.zeros((1, 1), dtype=np.uint64)
        for part in (np.array([[self.seed]]), np.array([[epoch]]), batch.rows[:, None], np.array([[purpose]])):
            key = _splitmix64(key ^ part.astype(np.uint64))
        positions = np.arange(batch.input_ids.shape[1], dtype=np.uint64)[None, :]
        numbers: npt.NDArray[np.float64] = (_splitmix64(key + positions) >> np.uint64(11)).astype(np.float64)
        return numbers * 2.0**-53


def _splitmix64(values: _Unsigned) -> _Unsigned:
    """Compute SplitMix64's next number (Steele et al. 2014, "Fast splittable pseudorandom number generators")."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Unsigned = values ^ (values >> np.uint64(31))
    return mixed
