"""CSV in its dialects, and TSV, as tables.

A value is a string; nothing is inferred from its look. What separates the cells is what a first line `sep=;` or params
say, else the sign that divides the header and the rows alike.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from potstill.data.formats.tabular import Table
from potstill.errors import CellSizeError, EmptyDataError, FormatError

# In the order in which they are taken where several would do.
SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
# Excel's first line that names the separator.
_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n')
# Records that a guess of the separator looks at.
_LOOKED_AT = 200


@dataclass(frozen=True)
class _Dialect:
    """How a file is divided.

    Attributes:
        separator: between cells.
        quoted: whether a quote opens a cell that may hold separators and line ends.
        escape: the sign before a quote that does not end its cell; None: the quote is doubled.
    """

    separator: str
    quoted: bool = True
    escape: str | None = None

    def records(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of each record that is not blank."""
        csv.field_size_limit(sys.maxsize)  # the limit is checked with the row and the column
        stream = io.StringIO(text, newline="")
        if not self.quoted:
            reader = csv.reader(stream, delimiter=self.separator, quoting=csv.QUOTE_NONE)
        elif self.escape is None:
            reader = csv.reader(stream, delimiter=self.separator, strict=True)
        else:
            reader = csv.reader(
                stream, delimiter=self.separator, strict=True, escapechar=self.escape, doublequote=False
            )
        before = 0
        try:
            for cells in reader:
                line, before = before + 1, reader.line_num
                if cells:
                    yield line, cells
        except csv.Error as error:
            raise _BrokenError(before + 1, str(error)) from error


class _BrokenError(Exception):
    """A record that is no CSV."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


def read_delimited(
    text: str, where: str, form: str, columns: Sequence[str] | None, limit: int, separator: str | None = None
) -> Table:
    """Read CSV, as RFC 4180 has it or with another separator, or TSV, where a quote is an ordinary character (IANA).

    Args:
        text: of the file.
        where: its path, for messages.
        form: csv or tsv.
        columns: names, where the file has no header.
        limit: characters a cell may have.
        separator: as params give it; None: it is looked for.

    Raises:
        FormatError: rows of uneven length, quotes that do not close, a column twice.
        EmptyDataError: no rows.
        CellSizeError: a longer cell.
    """
    notes: list[str] = []
    shift = 0
    named = _SEP_LINE.match(text)
    if named and form == "csv":
        text, shift = text[named.end() :], 1
        separator = separator or named[1]
        notes.append(f"the first line says {'sep=' + named[1]!r}")
    dialect = _dialect(text, form, columns, separator)
    if separator is None and form == "csv" and dialect.separator != ",":
        notes.append(f"the cells are separated by {_named(dialect.separator)}")
    if dialect.escape:
        notes.append("quotes within cells are escaped with a backslash")
    try:
        records = [(line + shift, cells) for line, cells in dialect.records(text)]
    except _BrokenError as error:
        raise FormatError(_broken(where, error.line + shift, error.reason, text)) from error
    header, rows = (list(columns), records) if columns else (_header(records, where), records[1:])
    if not rows:
        raise EmptyDataError(f"{where} has a header and no rows; give a file with data")
    _check_rows(rows, header, where, form, dialect.separator, limit, given=bool(columns))
    cells, more = _columns(header, [record for _, record in rows])
    return Table(
        where, cells, [line for line, _ in rows], notes=(*notes, *more), format=form, separator=dialect.separator
    )


def _named(separator: str) -> str:
    return f"{_NAMES[separator]}s" if separator in _NAMES else repr(separator)


# --- the dialect ------------------------------------------------------------------------------------------------------


def _dialect(text: str, form: str, columns: Sequence[str] | None, separator: str | None) -> _Dialect:
    if form == "tsv" and separator is None:
        return _Dialect("\t", quoted=False)
    candidates = (separator,) if separator else SEPARATORS
    plain = max((_Dialect(sign) for sign in candidates), key=lambda dialect: _fit(dialect, text, columns))
    if '\\"' not in text or _is_whole(plain, text):
        return plain
    escaped = max((_Dialect(sign, escape="\\") for sign in candidates), key=lambda other: _fit(other, text, columns))
    return escaped if _is_whole(escaped, text) else plain


def _fit(dialect: _Dialect, text: str, columns: Sequence[str] | None) -> float:
    """How well a dialect divides the first rows: the share of even ones; below 0 where a row is a single cell."""
    wanted = len(columns) if columns else 0
    even = seen = 0
    try:
        for _, cells in itertools.islice(dialect.records(text), _LOOKED_AT):
            wanted = wanted or len(cells)
            seen += 1
            even += _length(cells, wanted) == wanted
    except _BrokenError:
        seen += 1
    return even / max(seen, 1) if wanted > 1 else -1.0


def _is_whole(dialect: _Dialect, text: str) -> bool:
    """Whether a dialect reads a text to its end, all rows of the first one's length."""
    wanted = 0
    try:
        for _, cells in dialect.records(text):
            wanted = wanted or len(cells)
            if _length(cells, wanted) != wanted:
                return False
    except _BrokenError:
        return False
    return True


def _length(cells: Sequence[str], wanted: int) -> int:
    """The cells of a record; empty ones at its end, beyond those that are expected, are none."""
    return wanted if len(cells) > wanted and not any(cell.strip() for cell in cells[wanted:]) else len(cells)


# --- the rows ---------------------------------------------------------------------------------------------------------


def _header(records: Sequence[tuple[int, list[str]]], where: str) -> list[str]:
    names = [name.strip() for name in records[0][1]] if records else []
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise FormatError(f"{where} has the column {twice[0]!r} twice in its header; rename one")
    return names


def _check_rows(
    rows: Sequence[tuple[int, list[str]]],
    names: Sequence[str],
    where: str,
    form: str,
    separator: str,
    limit: int,
    *,
    given: bool,
) -> None:
    for line, cells in rows:
        for name, cell in zip(names, cells, strict=False):
            if len(cell) > limit:
                raise cell_too_long(f"{where}, line {line}", name, len(cell), limit)
        if _length(cells, len(names)) != len(names):
            raise FormatError(_uneven(where, line, len(cells), names, form, separator, given=given))


def cell_too_long(place: str, column: str, length: int, limit: int) -> CellSizeError:
    """The refusal of a cell."""
    return CellSizeError(
        f"{place}, column {column!r}: a cell of {length:,} characters, above prepare.max_cell_characters = {limit:,}; "
        "look at that row (a quote may be open), or raise the limit"
    )


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """Columns by name, and what was done with those that have none: empty ones are left out, others get a name."""
    columns: dict[str, list[str]] = {}
    notes: list[str] = []
    left_out = 0
    for at, name in enumerate(header):
        cells = [row[at] for row in rows]
        if name:
            columns[name] = cells
            continue
        filled = sum(bool(cell.strip()) for cell in cells)
        if not filled:
            left_out += 1
            continue
        columns[f"column_{at + 1}"] = cells
        notes.append(f"column {at + 1} has no name and is filled in {filled:,} rows; it is called 'column_{at + 1}'")
    if left_out:
        notes.append(f"{left_out} empty column{'s' if left_out > 1 else ''} without a name left out")
    return columns, notes


def _uneven(where: str, line: int, count: int, names: Sequence[str], form: str, separator: str, *, given: bool) -> str:
    wanted = f"{len(names)} ({'params' if given else 'the header'}: {', '.join(names[:8])})"
    if form == "tsv":
        advice = "a TSV is read without quoting: escape its tabs, or save it as CSV"
    else:
        advice = f"quote cells with {_named(separator)}"
    if len(names) == 1:
        advice += ", set `separator` of this table in prepare.tables to what separates its columns"
    return f"{where}, line {line} has {count} cells where {wanted} are expected; {advice}, or correct that line"


def _broken(where: str, line: int, reason: str, text: str) -> str:
    lines = text.split("\n")
    escaped = any('\\"' in part for part in lines[max(line - 2, 0) : line + 1])
    advice = 'write a quote within a cell twice (""), not with a backslash (\\"), ' if escaped else "check the quotes "
    return f"{where}, line {line}: {reason}; {advice}from that line on"
