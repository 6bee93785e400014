"""Reads the dialects of CSV, and TSV, as tables.

A value stays a string; no types are inferred. The separator is the one that a first line `sep=;` or params name, else
the one that divides header and rows into equally many cells.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.data.formats.tabular import Table
from potstill.errors import CellSizeError, EmptyDataError, FormatError

# In the order of preference.
SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
# The first line with which Excel names the separator.
_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n')
# Records that are inspected to detect the separator.
_SAMPLE_RECORDS = 200


@dataclass(frozen=True)
class Dialect:
    """A dialect of CSV.

    Attributes:
        separator: the sign between cells.
        quoted: whether quotes enclose cells, which then may hold separators and line ends.
        escape: the sign before a quote inside a cell; None: the quote is doubled.
    """

    separator: str
    quoted: bool = True
    escape: str | None = None

    def reader(self, lines: Iterable[str]) -> Any:
        """Read lines, each with its end, as records of cells: Python's `csv.reader` for this dialect."""
        return csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=self.quoted,
            escapechar=self.escape,
            doublequote=self.escape is None,
        )

    def records(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Yield (line, cells) of each record that is not blank.

        Raises:
            _RecordError: a record is no CSV.
        """
        csv.field_size_limit(sys.maxsize)  # The limit is checked later, where row and column are known.
        reader = self.reader(io.StringIO(text, newline=""))
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise _RecordError(line, str(error)) from error


class _RecordError(Exception):
    """A record that is no CSV."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def read_delimited(
    text: str, location: str, file_format: str, columns: Sequence[str] | None, limit: int, separator: str | None = None
) -> Table:
    """Read CSV, as in RFC 4180 or with another separator, or TSV, where a quote is an ordinary character (IANA).

    Args:
        text: the text of the file.
        location: its path, for messages.
        file_format: csv or tsv.
        columns: names for a file without a header.
        limit: the most characters of a cell.
        separator: as params name it; None: it is detected.

    Raises:
        FormatError: rows of uneven length, quotes that do not close, or two columns of one name.
        EmptyDataError: there are no rows.
        CellSizeError: a cell is longer than the limit.
    """
    notes: list[str] = []
    skipped_lines = 0
    named, length = separator_line(text) if file_format == "csv" else (None, 0)
    if named:
        text = text[length:]
        skipped_lines = 1
        separator = separator or named
        notes.append(f"the first line says {'sep=' + named!r}")
    dialect = detect_dialect(text, file_format, columns, separator)
    if separator is None and file_format == "csv" and dialect.separator != ",":
        notes.append(f"the cells are separated by {_separator_name(dialect.separator)}")
    if dialect.escape:
        notes.append("quotes within cells are escaped with a backslash")
    try:
        records = [(line + skipped_lines, cells) for line, cells in dialect.records(text)]
    except _RecordError as error:
        raise FormatError(_record_sentence(location, error.line + skipped_lines, error.reason, text)) from error
    header = list(columns) if columns else header_names(records[0][1] if records else [], location)
    rows = records if columns else records[1:]
    if not rows:
        raise EmptyDataError(f"{location} has a header and no rows; give a file with data")
    _check_rows(rows, header, location, file_format, dialect.separator, limit, named=bool(columns))
    values, column_notes = _columns(header, [cells for _, cells in rows])
    lines = [line for line, _ in rows]
    return Table(
        location, values, lines, notes=(*notes, *column_notes), format=file_format, separator=dialect.separator
    )


def _separator_name(separator: str) -> str:
    return f"{_NAMES[separator]}s" if separator in _NAMES else repr(separator)


# --- the dialect ------------------------------------------------------------------------------------------------------


def separator_line(text: str) -> tuple[str | None, int]:
    """Read the separator that a first line `sep=;` names, and the length of that line; None and 0 without one."""
    match = _SEP_LINE.match(text)
    return (match[1], match.end()) if match else (None, 0)


def detect_dialect(text: str, file_format: str, columns: Sequence[str] | None, separator: str | None) -> Dialect:
    """Detect the dialect of a text, or of the first lines of one.

    Args:
        text: lines without a line that names the separator.
        file_format: csv or tsv.
        columns: names for a file without a header.
        separator: where it is known.
    """
    if file_format == "tsv" and separator is None:
        return Dialect("\t", quoted=False)
    candidates = (separator,) if separator else SEPARATORS
    plain = max((Dialect(sign) for sign in candidates), key=lambda dialect: _fit(dialect, text, columns))
    if '\\"' not in text or _is_whole(plain, text):
        return plain
    escaped = max((Dialect(sign, escape="\\") for sign in candidates), key=lambda item: _fit(item, text, columns))
    return escaped if _is_whole(escaped, text) else plain


def _fit(dialect: Dialect, text: str, columns: Sequence[str] | None) -> float:
    """Rate how well a dialect divides the first rows: the share of rows of even width, or -1 for a single column."""
    width = len(columns) if columns else 0
    even = 0
    total = 0
    try:
        for _, cells in itertools.islice(dialect.records(text), _SAMPLE_RECORDS):
            width = width or len(cells)
            total += 1
            even += cells_in(cells, width) == width
    except _RecordError:
        total += 1
    return even / max(total, 1) if width > 1 else -1.0


def _is_whole(dialect: Dialect, text: str) -> bool:
    """Whether a dialect reads a text to its end, with all rows as long as the first."""
    width = 0
    try:
        for _, cells in dialect.records(text):
            width = width or len(cells)
            if cells_in(cells, width) != width:
                return False
    except _RecordError:
        return False
    return True


def cells_in(cells: Sequence[str], width: int) -> int:
    """Count the cells of a record. Empty cells at its end beyond the expected width do not count."""
    return width if len(cells) > width and not any(cell.strip() for cell in cells[width:]) else len(cells)


# --- the rows ---------------------------------------------------------------------------------------------------------


def header_names(cells: Sequence[str], location: str) -> list[str]:
    """Read the names of the columns from the first record; empty for a column without a name.

    Raises:
        FormatError: two columns have one name.
    """
    names = [name.strip() for name in cells]
    refuse_twice([name for name in names if name], location)
    return names


def refuse_twice(names: Sequence[str], location: str) -> None:
    """Refuse columns of which two have one name.

    Raises:
        FormatError: two have.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{location} has the column {twice[0]!r} twice; rename one")


def name_of_column(index: int, header: Sequence[str]) -> str:
    """Name a column, by its index from 0, that has no name in the header: `column_3`, or what no other column has."""
    name = f"column_{index + 1}"
    while name in header:
        name += "_"
    return name


def _check_rows(
    rows: Sequence[tuple[int, list[str]]],
    names: Sequence[str],
    location: str,
    file_format: str,
    separator: str,
    limit: int,
    *,
    named: bool,
) -> None:
    for line, cells in rows:
        for name, cell in zip(names, cells, strict=False):
            if len(cell) > limit:
                raise cell_too_long(f"{location}, line {line}", name, len(cell), limit)
        if cells_in(cells, len(names)) != len(names):
            raise FormatError(_uneven_sentence(location, line, len(cells), names, file_format, separator, named=named))


def cell_too_long(location: str, column: str, length: int, limit: int) -> CellSizeError:
    """Build the error for a cell above the limit."""
    return CellSizeError(
        f"{location}, column {column!r}: a cell of {length:,} characters, above prepare.max_cell_characters = {limit:,}"
        "; look at that row (a quote may be open), or raise the limit"
    )


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Name the columns. Of those without a name, empty ones are left out and others get one, which the notes say."""
    columns: dict[str, list[str]] = {}
    notes: list[str] = []
    left_out = 0
    for index, name in enumerate(header):
        cells = [row[index] for row in rows]
        if name:
            columns[name] = cells
            continue
        filled = sum(bool(cell.strip()) for cell in cells)
        if not filled:
            left_out += 1
            continue
        given = name_of_column(index, header)
        columns[given] = cells
        notes.append(f"column {index + 1} has no name and is filled in {filled:,} rows; it is called {given!r}")
    if left_out:
        notes.append(f"{left_out} empty column{'s' if left_out > 1 else ''} without a name left out")
    return columns, notes


def _uneven_sentence(
    location: str, line: int, count: int, names: Sequence[str], file_format: str, separator: str, *, named: bool
) -> str:
    expected = f"{len(names)} ({'params' if named else 'the header'}: {', '.join(names[:8])})"
    if file_format == "tsv":
        advice = "a TSV is read without quoting: escape its tabs, or save it as CSV"
    else:
        advice = f"quote cells with {_separator_name(separator)}"
    if len(names) == 1:
        advice += ", set `separator` of this table in prepare.tables to what separates its columns"
    return f"{location}, line {line} has {count} cells where {expected} are expected; {advice}, or correct that line"


def _record_sentence(location: str, line: int, reason: str, text: str) -> str:
    lines = text.split("\n")
    escaped = any('\\"' in part for part in lines[max(line - 2, 0) : line + 1])
    advice = 'write a quote within a cell twice (""), not with a backslash (\\"), ' if escaped else "check the quotes "
    return f"{location}, line {line}: {reason}; {advice}from that line on"
