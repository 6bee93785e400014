"""Reads the rows of Parquet files in batches, with their types."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.data.formats.columnar import is_readable
from potstill.prediction.input_files import InputFile, open_input
from potstill.prediction.row_batches import BATCH, NOT_UTF8, Batch, NumberedRows, Rejected, Selection, joined


@contextmanager
def open_parquet(file: InputFile) -> Iterator[Any]:
    """Open a Parquet file as pyarrow's `ParquetFile`. A packed one is unpacked into a temporary file."""
    with open_input(file) as opened, tempfile.TemporaryFile() as unpacked:
        source = opened.stream
        if file.codec is not None:
            shutil.copyfileobj(opened.stream, unpacked)
            source = unpacked
        yield pq.ParquetFile(source)


def read_parquet_rows(file: InputFile, selection: Selection) -> Iterator[Batch]:
    """Read a Parquet file; see `input_rows.read_batches`."""
    with open_parquet(file) as parquet:
        columns = parquet.schema_arrow.names if selection.columns is None else list(selection.columns)
        needed = list(dict.fromkeys((*columns, *selection.texts)))
        read = 0
        for record_batch in parquet.iter_batches(BATCH, columns=needed):
            table = pa.Table.from_batches([record_batch])
            position = file.size * (read + len(table)) / parquet.metadata.num_rows
            yield _batch(table, read + 1, columns, selection, position)
            read += len(table)


def _batch(table: pa.Table, first: int, columns: list[str], selection: Selection, position: float) -> Batch:
    """Check rows of which the first has the number `first`."""
    batch = NumberedRows()
    bad = _not_utf8_rows(table)
    for index in range(len(table)):
        if index in bad:
            batch.rejected.append(Rejected(first + index, None, NOT_UTF8))
        else:
            batch.add(first + index, None, index)
    table = _take(table, batch.rows)
    indices, texts = batch.keep(joined([table.column(name).to_pylist() for name in selection.texts]), selection)
    return Batch(_take(table.select(columns), indices), texts, batch.rejected, position)


def _take(table: pa.Table, rows: list[int]) -> pa.Table:
    """Take some rows of a table in order; all of them cost nothing."""
    return table if len(rows) == len(table) else table.take(pa.array(rows, pa.int64()))


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _not_utf8_rows(table: pa.Table) -> set[int]:
    """List the rows with a text that is not UTF-8, which Parquet does not check."""
    bad: set[int] = set()
    for column in table.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            bad.update(row for row, value in enumerate(column) if not is_readable(value))
    return bad
