"""Further columns of the tables that the splits keep (`prepare.keep_columns`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potstill.data.cleaning import without_surrogates
from potstill.data.formats.cells import is_absent, is_missing_word
from potstill.data.formats.tabular import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from potstill.data.rows import Row

# A column that every table has, by the name of its source where it has none of its own.
SOURCE = "source"
# A number as programs write it. `007` is a code.
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def kept_values(table: Table, source: str, names: Sequence[str], splits: Sequence[str]) -> list[dict[str, Any]]:
    """Read the kept columns of each row of a table; None for a missing value.

    Args:
        table: the table.
        source: its name in `ingest.data`.
        names: of the columns.
        splits: [rows] the split of each row. A table of transfer rows may lack the columns.

    Raises:
        MissingColumnError: there is no such column.
        FormatError: a column holds bytes, lists or objects.
    """
    table_names = table.names()
    columns: dict[str, list[Any]] = {}
    for name in names:
        if name == SOURCE and SOURCE not in table_names:
            columns[name] = [source] * len(table)
        elif name not in table_names and set(splits) == {"transfer"}:
            columns[name] = [None] * len(table)
        else:
            cells = table.texts(name)
            columns[name] = [None if is_absent(cell) or is_missing_word(cell) else cell for cell in cells]
    return [{name: values[row] for name, values in columns.items()} for row in range(len(table))]


def kept_arrays(splits: Mapping[str, Sequence[Row]], split: str) -> dict[str, pa.Array]:
    """Build the kept columns of a split: of numbers where every value in every split is one, else of texts."""
    import pyarrow as pa

    all_columns = [row.columns for rows in splits.values() for row in rows]
    names = dict.fromkeys(name for columns in all_columns for name in columns)
    arrays = {}
    for name in names:
        values = [row.columns.get(name) for row in splits[split]]
        if all(_is_number(columns.get(name)) for columns in all_columns):
            arrays[name] = pa.array([None if value is None else float(value) for value in values], pa.float64())
        else:
            texts = [None if value is None else without_surrogates(str(value)) for value in values]
            arrays[name] = pa.array(texts, pa.string())
    return arrays


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return value is None or isinstance(value, float)
