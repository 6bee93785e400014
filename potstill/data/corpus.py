"""Raw text to learn from without labels: the texts of train and transfer, never of dev or test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.data.tokens.batches import TokenDataset

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The splits whose texts a model may see before it is judged on the others.
LEARNED = ("train", "transfer")
_TEXTS = ("text", "text_pair")
_ROWS_AT_ONCE = 1000


def read_texts(prepared: Path) -> list[str]:
    """The texts of `data/prepared` to learn from, in the order of their rows; the texts of a pair are two."""
    import pyarrow.parquet as pq

    texts: list[str] = []
    for split in LEARNED:
        table = pq.read_table(prepared / f"{split}.parquet")
        columns = [table.column(name).to_pylist() for name in _TEXTS if name in table.column_names]
        texts += [text for row in zip(*columns, strict=True) for text in row]
    return texts


def token_rows(texts: Sequence[str], tokenizer: Tokenizer, pad: int) -> TokenDataset:
    """All tokens of the texts as rows without labels; what the tokenizer cuts off makes further rows.

    Args:
        texts: in order.
        tokenizer: one that cuts (see `potstill.data.tokens.tokenization.load_tokenizer`).
        pad: id of the padding token.
    """
    rows = [np.array(ids, dtype=np.int32) for ids in _encoded(texts, tokenizer)]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
    return TokenDataset(flat, lengths, None, np.full(len(rows), -1, dtype=np.int64), pad)


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[Iterable[int]]:
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        for encoding in tokenizer.encode_batch(list(texts[start : start + _ROWS_AT_ONCE])):
            yield encoding.ids
            for rest in encoding.overflowing:
                yield rest.ids
