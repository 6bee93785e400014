from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.data.tokens.masking import Masking

MASK, SPECIAL, VOCABULARY = 4, (0, 1, 2, 3, 4), 60
WORDS = Masking(MASK, SPECIAL, VOCABULARY, 0.15, seed=11)
WORD = 2**64


def dataset(count: int = 400) -> TokenDataset:
    random = np.random.default_rng(3)
    lengths = random.integers(4, 40, count)
    flat = random.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    ends = np.cumsum(lengths)
    flat[ends - lengths], flat[ends - 1] = 2, 3
    return TokenDataset(flat, lengths, None, np.full(count, -1), 0)


ROWS = dataset()


def whole(rows: TokenDataset = ROWS) -> Batch:
    return rows.batch(np.arange(len(rows)))


def mixed(value: int) -> int:
    """SplitMix64 on Python's own integers."""
    value = (value + 0x9E3779B97F4A7C15) % WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % WORD
    return value ^ (value >> 31)


def draw(seed: int, epoch: int, row: int, purpose: int, position: int) -> float:
    key = 0
    for part in (seed, epoch, row, purpose):
        key = mixed(key ^ (part % WORD))
    return (mixed((key + position) % WORD) >> 11) / 2**53


def reference(row: int, ids: list[int], seed: int, epoch: int, share: float) -> tuple[list[int], list[int]]:
    """A row as BERT's paper has it, token by token."""
    seen, labels = [], []
    for position, token in enumerate(ids):
        shown, target = token, -1
        if token not in SPECIAL and draw(seed, epoch, row, 0, position) < share:
            target, action = token, draw(seed, epoch, row, 1, position)
            if action < 0.8:
                shown = MASK
            elif action < 0.9:
                shown = 5 + int(draw(seed, epoch, row, 2, position) * (VOCABULARY - 5))
        seen.append(shown)
        labels.append(target)
    return seen, labels


@pytest.mark.parametrize("epoch", [0, 3, -1])
def test_masking_equals_a_plain_loop(epoch: int) -> None:
    batch = whole()
    masked = WORDS(batch, epoch)
    for row in range(0, len(ROWS), 7):
        length = int(ROWS.lengths[row])
        seen, labels = reference(row, batch.input_ids[row, :length].tolist(), 11, epoch, 0.15)
        assert masked.input_ids[row, :length].tolist() == seen
        assert masked.labels[row].tolist() == labels + [-1] * (batch.input_ids.shape[1] - length)


def test_a_row_is_masked_alike_in_every_batch() -> None:
    together, rows = WORDS(whole(), 5), np.array([301, 7, 64])
    apart = WORDS(ROWS.batch(rows), 5)
    width = apart.input_ids.shape[1]
    assert (apart.input_ids == together.input_ids[rows, :width]).all()
    assert (apart.labels == together.labels[rows, :width]).all()


def test_another_epoch_or_seed_hides_other_tokens() -> None:
    first = WORDS(whole(), 0).labels
    for other in (WORDS(whole(), 1), dataclasses.replace(WORDS, seed=12)(whole(), 0)):
        both = ((first >= 0) & (other.labels >= 0)).sum() / (first >= 0).sum()
        assert both == pytest.approx(0.15, abs=0.05)


def test_shares_are_those_of_the_paper_and_only_words_are_chosen() -> None:
    rows = dataset(4000)
    batch = whole(rows)
    masked = WORDS(batch, 0)
    chosen = masked.labels >= 0
    words = (batch.attention_mask != 0) & ~np.isin(batch.input_ids, SPECIAL)
    assert not (chosen & ~words).any()
    assert chosen.sum() / words.sum() == pytest.approx(0.15, abs=0.005)
    hidden, unchanged = masked.input_ids[chosen] == MASK, masked.input_ids[chosen] == batch.input_ids[chosen]
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    # A random token is the old one by chance once in 55.
    assert unchanged.mean() == pytest.approx(0.1 + 0.1 / 55, abs=0.01)
    drawn = masked.input_ids[chosen][~hidden & ~unchanged]
    assert set(drawn) <= set(range(5, VOCABULARY))
    assert (masked.labels[chosen] == batch.input_ids[chosen]).all()
    assert (masked.input_ids[~chosen] == batch.input_ids[~chosen]).all()
