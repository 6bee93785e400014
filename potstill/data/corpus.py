"""The texts of prepared splits, and raw text for pretraining: that of train and transfer, never of dev or test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.data.tokens.batches import TokenDataset

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

# The splits whose texts a model may see in training.
LEARNED = ("train", "transfer")
_ROWS_AT_ONCE = 1000


def prepared_texts(rows: pa.Table) -> list[str] | list[tuple[str, str]]:
    """List the texts of a split of `data/prepared`, or its pairs of texts, as a tokenizer takes them."""
    texts: list[str] = rows.column("text").to_pylist()
    if "text_pair" not in rows.column_names:
        return texts
    return list(zip(texts, rows.column("text_pair").to_pylist(), strict=True))


def read_corpus(prepared: Path) -> list[str]:
    """Read the texts of train and transfer in the order of their rows. The texts of a pair count as two."""
    import pyarrow.parquet as pq

    corpus: list[str] = []
    for split in LEARNED:
        for text in prepared_texts(pq.read_table(prepared / f"{split}.parquet")):
            corpus += [text] if isinstance(text, str) else text
    return corpus


def token_rows(texts: Sequence[str], tokenizer: Tokenizer, pad: int) -> TokenDataset:
    """Tokenize texts into rows without labels. A text that is longer than a row continues in further rows.

    Args:
        texts: in order.
        tokenizer: one that truncates (see `potstill.data.tokens.tokenization.load_tokenizer`).
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
            for overflow in encoding.overflowing:
                yield overflow.ids
