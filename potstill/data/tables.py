"""Tables as files hold them: CSV, TSV, JSON lines, Parquet, plain lines, and folders saved by `datasets`.

Text files are read strictly: what is not UTF-8, has NUL bytes or rows of uneven length is refused with its place,
never guessed at. A value of a text file is a string; nothing is inferred from its look.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import fnmatch
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import (
    CellSizeError,
    EmptyDataError,
    EncodingError,
    FetchError,
    FormatError,
    MissingColumnError,
    NulByteError,
)

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_FOREIGN_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Table:
    """One file's columns.

    Attributes:
        where: its path, for messages.
        columns: name -> one value a row; None where a row has none.
        places: [rows] where each row is in the file, counted from 1.
        unit: what `places` counts: "line" of a text file, "row" of another.
        split: the split that the file itself names (a `datasets` dictionary), else None.
        class_names: column -> names of its integer classes (`datasets` ClassLabel).
        notes: what the user should know of the reading.
    """

    where: str
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str = "line"
    split: str | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        """Where a row (from 0) is, for messages."""
        return f"{self.where}, {self.unit} {self.places[row]}"

    def with_constants(self, constants: Mapping[str, str | int]) -> Table:
        """The same rows with further columns of one value each.

        Raises:
            FormatError: the file has such a column already.
        """
        twice = next((name for name in constants if name in self.columns), None)
        if twice is not None:
            raise FormatError(
                f"{self.where} has a column {twice!r} of its own, which `constants` of prepare.tables names too; "
                "give the constant another name"
            )
        return replace(self, columns=self.columns | {name: [value] * len(self) for name, value in constants.items()})

    def column(self, name: str) -> list[Any]:
        """A column's values.

        Raises:
            MissingColumnError: there is none of that name; the message has those there are.
        """
        if name in self.columns:
            return self.columns[name]
        near = difflib.get_close_matches(name, self.columns, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? It" if near else "it"
        raise MissingColumnError(
            f"{self.where} has no column {name!r}; {guess} has {', '.join(map(repr, list(self.columns)[:20]))} "
            "(name the right one under prepare, or give `columns` for a file without a header)"
        )


def read_tables(folder: Path, files: str, form: str, columns: Sequence[str] | None, limit: int) -> Iterator[Table]:
    """Read the files of a source that match a pattern.

    Args:
        folder: the source's folder in `data/raw`.
        files: a glob pattern within it (of a saved folder: of its splits' names); `*` means all files below.
        form: csv, tsv, jsonl, parquet, lines, saved, or auto (by suffix; a saved folder by its files).
        columns: names for CSV and TSV files without a header; of lines the one name, else `text`.
        limit: characters a cell may have.

    Raises:
        FetchError: no file matches.
        FormatError, EncodingError, NulByteError, CellSizeError, EmptyDataError: see the class of each.
    """
    if form == "saved" or (form == "auto" and _is_saved(folder)):
        yield from _read_saved(folder, files, limit)
        return
    found = [path for path in sorted(folder.glob("**/*" if files == "*" else files)) if path.is_file()]
    kept = [path for path in found if form != "auto" or path.suffix.lower() in SUFFIXES]
    if not kept:
        there = ", ".join(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
        if found:
            raise FormatError(
                f"{', '.join(path.name for path in found[:3])}: the suffix names no known format "
                f"({', '.join(SUFFIXES)}); set `format` of this table in prepare.tables"
            )
        raise FetchError(f"prepare.tables: no file of {folder} matches {files!r}; it has {there[:300] or 'none'}")
    for path in kept:
        yield read_file(path, SUFFIXES[path.suffix.lower()] if form == "auto" else form, columns, limit)


def read_file(path: Path, form: str, columns: Sequence[str] | None = None, limit: int = sys.maxsize) -> Table:
    """Read one file. See `read_tables`."""
    if form == "parquet":
        table = _read_parquet(path)
    elif form == "jsonl":
        table = _read_jsonl(path)
    elif form == "lines":
        table = _read_lines(path, columns)
    else:
        return _read_delimited(path, form, columns, limit)
    return _checked(table, limit)


def _checked(table: Table, limit: int) -> Table:
    if not len(table):
        raise EmptyDataError(f"{table.where} has no rows; give a file with data")
    for name, values in table.columns.items():
        for row, value in enumerate(values):
            if isinstance(value, str) and len(value) > limit:
                raise _too_long(table.place(row), name, len(value), limit)
    return table


def _too_long(place: str, column: str, length: int, limit: int) -> CellSizeError:
    return CellSizeError(
        f"{place}, column {column!r}: a cell of {length:,} characters, above prepare.max_cell_characters = {limit:,}; "
        "look at that row (a quote may be open), or raise the limit"
    )


# --- text files -----------------------------------------------------------------------------------------------------


def read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """A UTF-8 file's text without its byte order mark, and notes on the reading.

    Raises:
        EmptyDataError: no bytes.
        EncodingError: another encoding, with the first offending byte.
        NulByteError: a NUL byte, with its place.
    """
    data = path.read_bytes()
    where = path.as_posix()
    for mark, name in _FOREIGN_MARKS.items():
        if data.startswith(mark):
            raise EncodingError(f"{where} is {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8 {path.name}")
    marked = data.startswith(codecs.BOM_UTF8)
    if not data[3 if marked else 0 :].strip():
        raise EmptyDataError(f"{where} is empty; give a file with data")
    if (at := data.find(b"\0")) >= 0:
        raise NulByteError(
            f"{where} has a NUL byte at byte {at} (line {_line(data, at)}); it is damaged, binary, or UTF-16 without "
            "a mark: export it again as UTF-8"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (len(codecs.BOM_UTF8) if marked else 0)
        raise EncodingError(
            f"{where} is not UTF-8: byte 0x{data[at]:02x} at byte {at} (line {_line(data, at)}); "
            "find its encoding and convert it, such as iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    return text, ("a UTF-8 byte order mark was skipped",) if marked else ()


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _read_delimited(path: Path, form: str, columns: Sequence[str] | None, limit: int) -> Table:
    """CSV as RFC 4180 has it; TSV as IANA has it, where a quote is an ordinary character."""
    text, notes = read_text(path)
    where = path.as_posix()
    csv.field_size_limit(sys.maxsize)  # the limit is checked below, with the row and the column
    stream = io.StringIO(text, newline="")
    if form == "tsv":
        reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, strict=True)
    names = list(columns) if columns else _header(reader, where)
    rows: list[list[str]] = []
    places: list[int] = []
    before = reader.line_num
    try:
        for cells in reader:
            place, before = before + 1, reader.line_num
            if not cells:
                continue
            for name, cell in zip(names, cells, strict=False):
                if len(cell) > limit:
                    raise _too_long(f"{where}, line {place}", name, len(cell), limit)
            if len(cells) != len(names):
                raise FormatError(_uneven(where, place, len(cells), names, form, given=bool(columns)))
            rows.append(cells)
            places.append(place)
    except csv.Error as error:
        raise FormatError(f"{where}, line {before + 1}: {error}; check the quotes from that line on") from error
    if not rows:
        raise EmptyDataError(f"{where} has a header and no rows; give a file with data")
    return Table(where, {name: [row[at] for row in rows] for at, name in enumerate(names)}, places, notes=notes)


def _header(reader: Iterator[list[str]], where: str) -> list[str]:
    try:
        names = [name.strip() for name in next(cells for cells in reader if cells)]
    except csv.Error as error:
        raise FormatError(f"{where}, line 1: {error}; check the quotes of the header") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{where} has the column {twice[0]!r} twice in its header; rename one")
    return names


def _uneven(where: str, place: int, found: int, names: Sequence[str], form: str, *, given: bool) -> str:
    wanted = f"{len(names)} ({'params' if given else 'the header'}: {', '.join(names[:8])})"
    advice = (
        "a TSV is read without quoting: escape its tabs, or save it as CSV"
        if form == "tsv"
        else "quote cells with commas"
    )
    return f"{where}, line {place} has {found} cells where {wanted} are expected; {advice}, or correct that line"


def _read_jsonl(path: Path) -> Table:
    text, notes = read_text(path)
    where = path.as_posix()
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    for place, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{where}, line {place} is not JSON ({error}); each line has to be one object") from error
        if not isinstance(row, dict):
            raise FormatError(f'{where}, line {place} is {type(row).__name__}, not an object such as {{"text": ...}}')
        rows.append(row)
        places.append(place)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, {name: [row.get(name) for row in rows] for name in names}, places, notes=notes)


def _read_lines(path: Path, columns: Sequence[str] | None) -> Table:
    """One text a line; a line without one is no row."""
    if columns is not None and len(columns) != 1:
        raise FormatError(
            f"{path.as_posix()} is read as lines, which have one column, but prepare.tables names {len(columns)} "
            f"({', '.join(columns)}); name one, or set another `format`"
        )
    text, notes = read_text(path)
    rows = [(place, line) for place, line in enumerate(text.split("\n"), start=1) if line.strip()]
    name = columns[0] if columns else "text"
    return Table(path.as_posix(), {name: [line for _, line in rows]}, [place for place, _ in rows], notes=notes)


# --- columnar files -------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        raise EmptyDataError(f"{path.as_posix()} is empty; give a file with data")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{path.as_posix()} is not a readable Parquet file: {' '.join(str(error).split())[:200]}"
        ) from error
    return _from_arrow(table, path.as_posix(), None, {})


def _from_arrow(table: pa.Table, where: str, split: str | None, class_names: dict[str, list[str]]) -> Table:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(where, columns, range(1, table.num_rows + 1), "row", split, class_names)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _read_saved(folder: Path, files: str, limit: int) -> Iterator[Table]:
    from datasets import ClassLabel, Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{folder.as_posix()} was not written by datasets' save_to_disk: {' '.join(str(error).split())[:200]}"
        ) from error
    parts: dict[str | None, Any] = {None: loaded} if isinstance(loaded, Dataset) else dict(loaded)
    matching = {name: part for name, part in parts.items() if name is None or fnmatch.fnmatch(name, files)}
    if not matching:
        raise FetchError(f"prepare.tables: no split of {folder} matches {files!r}; it has {', '.join(map(str, parts))}")
    for name, part in matching.items():
        # Of a list of classes (tags of words) the names are those of its items.
        kinds = {key: getattr(value, "feature", value) for key, value in part.features.items()}
        names = {key: kind.names for key, kind in kinds.items() if isinstance(kind, ClassLabel)}
        where = folder.as_posix() + (f" [{name}]" if name else "")
        # Through flatten_indices: a shuffled or selected dataset has its rows behind an index.
        yield _checked(_from_arrow(part.flatten_indices().data.table, where, name, names), limit)
