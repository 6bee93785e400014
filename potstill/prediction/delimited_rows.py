"""Reads the rows of CSV and TSV files in batches. A value stays a text; no types are inferred."""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from potstill.data.formats.delimited import (
    Dialect,
    cells_in,
    detect_dialect,
    header_names,
    name_of_column,
    separator_line,
)
from potstill.data.formats.encodings import refuse_marks
from potstill.errors import FormatError
from potstill.prediction.input_files import InputFile, open_input
from potstill.prediction.row_batches import BATCH, NOT_UTF8, Batch, NumberedRows, Rejected, Selection, is_utf8, joined

# Number of bytes at the start of a file by which its dialect and its columns are known.
_HEAD = 2**18
# The longest line and the longest cell, in characters. A text has a limit of its own.
_MAX_LINE = 2**24
_MAX_CELL = 2**20


class Header(NamedTuple):
    """The columns of a delimited file, its dialect, and how many lines come before the header."""

    names: list[str]
    dialect: Dialect
    lines_before: int


def read_header(file: InputFile) -> Header | None:
    """Read the columns and the dialect of a delimited file; None: it is empty."""
    with open_input(file) as opened:
        start = opened.stream.read(_HEAD)
    refuse_marks(start, file.location, file.location)
    if len(start) == _HEAD:
        start = start.rpartition(b"\n")[0] or start
    text = start.decode("utf-8-sig", "replace")
    if not text.strip():
        return None
    separator, length = separator_line(text) if file.format == "csv" else (None, 0)
    dialect = detect_dialect(text[length:], file.format, None, separator)
    try:
        cells = next(filter(None, dialect.reader(io.StringIO(text[length:], newline=""))))
    except (csv.Error, StopIteration) as error:
        raise FormatError(
            f"{file.location} has no header that can be read; its first line names its columns"
        ) from error
    names = header_names(cells, file.location)
    names = [name or name_of_column(index, names) for index, name in enumerate(names)]
    return Header(names, dialect, 1 if length else 0)


def read_delimited_rows(file: InputFile, selection: Selection) -> Iterator[Batch]:
    """Read a CSV or TSV file; see `input_rows.read_batches`."""
    header = read_header(file)
    if header is None:
        return
    names = header.names
    text_indices = [names.index(name) for name in selection.texts]
    passed = [(name, names.index(name)) for name in (names if selection.columns is None else selection.columns)]

    def finish(batch: NumberedRows, position: float) -> Batch:
        indices, texts = batch.keep(joined([[row[i] for row in batch.rows] for i in text_indices]), selection)
        rows = [batch.rows[index] for index in indices]
        columns = {name: pa.array([row[i] for row in rows], pa.string()) for name, i in passed}
        return Batch(pa.table(columns), texts, batch.rejected, position)

    with open_input(file) as opened:
        lines = io.TextIOWrapper(opened.stream, "utf-8-sig", "surrogateescape", newline="")
        records = _records(header.dialect, iter(lambda: lines.readline(_MAX_LINE), ""), header.lines_before)
        next(records)  # the header
        batch = NumberedRows()
        for row, (line, cells) in enumerate(records, start=1):
            reason = cells if isinstance(cells, str) else _cells_problem(cells, names)
            if reason is not None:
                batch.rejected.append(Rejected(row, line, reason))
            else:
                batch.add(row, line, cells)
            if len(batch) == BATCH:
                yield finish(batch, opened.position)
                batch = NumberedRows()
        yield finish(batch, opened.position)


class _Lines:
    """Lines that a reader of records takes, and may take again if the record turns out to be broken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        return line

    def give_up_first(self) -> None:
        """Let all taken lines but the first be taken again."""
        self._again.extendleft(reversed(self.taken[1:]))


def _records(dialect: Dialect, lines: Iterable[str], lines_before: int) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line and the cells of each record that is not blank; the reason in place of the cells of a broken one.

    A quote that does not close breaks its line only: the lines after it are read again as records of their own.
    """
    source = _Lines(itertools.islice(lines, lines_before, None))
    reader = dialect.reader(source)
    line = 1 + lines_before
    while True:
        source.taken.clear()
        csv.field_size_limit(_MAX_CELL)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            source.give_up_first()
            yield line, f"a broken line: {error}"
            line += 1
            continue
        if cells:
            yield line, cells
        line += len(source.taken)


def _cells_problem(cells: list[str], names: Sequence[str]) -> str | None:
    """Say why a record cannot be used; None if it can. Empty cells after the last column are dropped."""
    if len(cells) != len(names):
        if cells_in(cells, len(names)) != len(names):
            return f"a broken line: {len(cells)} cells where {len(names)} are expected"
        del cells[len(names) :]
    return None if is_utf8("".join(cells)) else NOT_UTF8
