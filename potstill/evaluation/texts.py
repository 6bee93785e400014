"""The raw texts of a split, as a user would send them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.data.corpus import prepared_texts
from potstill.data.tokens.batches import Labels, label_array

if TYPE_CHECKING:
    from potstill.inference.runtime import Text


def read_texts(path: Path) -> tuple[list[Text], Labels]:
    """Read texts [rows] (or pairs) and gold labels [rows, ...] of a split of `data/prepared`, in its order."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path)
    return list(prepared_texts(rows)), label_array(rows.column("label"))


def readable(text: Text) -> str:
    """Return one string for a reader, with the two texts of a pair on lines of their own."""
    return text if isinstance(text, str) else "\n".join(text)
