"""Reads files as tables: CSV, TSV, JSON, Parquet, CoNLL, plain lines and folders saved by `datasets`, also compressed.

Text files are read strictly: a file that is not UTF-8, has NUL bytes or has rows of uneven length is refused with the
line. A value of a text file stays a string; no types are inferred.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from potstill.data.formats import compression
from potstill.data.formats.columnar import is_saved, read_parquet, read_saved
from potstill.data.formats.compression import Contents, inner_name, read_contents
from potstill.data.formats.conll import SUFFIXES as CONLL
from potstill.data.formats.conll import looks_like_conll, read_conll
from potstill.data.formats.delimited import cell_too_long, read_delimited
from potstill.data.formats.encodings import decode
from potstill.data.formats.exports import recognise_export
from potstill.data.formats.json_rows import read_json
from potstill.data.formats.tabular import Table
from potstill.data.splits.split_names import check_split_names, splits_of_files
from potstill.errors import EmptyDataError, FetchError, FormatError, first_names

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    **dict.fromkeys(CONLL, "conll"),
}
# JSON files that describe a data set, a model or a project, and hold no rows.
_DESCRIPTIONS = frozenset(
    {
        "config.json",
        "dataset_dict.json",
        "dataset_info.json",
        "dataset_infos.json",
        "manifest.json",
        "package.json",
        "state.json",
    }
)


def read_tables(
    folder: Path,
    files: str,
    file_format: str,
    columns: Sequence[str] | None,
    limit: int,
    separator: str | None = None,
    *,
    ignore_splits: bool = False,
) -> Iterator[Table]:
    """Read the files of a source that match a pattern.

    Args:
        folder: the source's folder in `data/raw`.
        files: a file's name, or a glob pattern for files or the splits of a saved folder; `*` means all files below.
        file_format: csv, tsv, json, jsonl, parquet, conll, lines, saved, or auto (by suffix or by the files of a saved
            folder).
        columns: names for files without a header. Lines have one column, `text` by default.
        limit: the most characters of a cell.
        separator: of a CSV file; None: it is detected.
        ignore_splits: whether to ignore split names in the names of files.

    Raises:
        FetchError: no file matches.
        FormatError, EncodingError, NulByteError, CellSizeError, EmptyDataError: see the class of each.
    """
    if file_format == "saved" or (file_format == "auto" and is_saved(folder)):
        tables = list(read_saved(folder, files))
        if not ignore_splits:
            check_split_names([table.split or "" for table in tables if table.split], folder.as_posix())
        yield from (check_table(table, limit) for table in tables)
        return
    matching = _matching(folder, files)
    paths = _known(matching, folder, files, file_format)
    splits = {} if ignore_splits else splits_of_files([path.relative_to(folder) for path in paths], folder.as_posix())
    others = [path for path in sorted({*matching} - {*paths}) if path.name not in _DESCRIPTIONS]
    left_out = [path.relative_to(folder).as_posix() for path in others]
    for path in paths:
        table = read_file(path, file_format, columns, limit, separator)
        if path == paths[0] and left_out:
            table = table.with_notes(f"not read, as their format is unknown: {first_names(left_out, 5)}")
        yield replace(table, split=splits.get(path.relative_to(folder), table.split))


def matching_files(folder: Path, files: str, file_format: str) -> list[Path]:
    """List the files of a source that match a pattern, sorted.

    Raises:
        FetchError: no file matches.
        FormatError: none of the files has a known format, or a file that is named is a document or an archive.
    """
    return _known(_matching(folder, files), folder, files, file_format)


def _matching(folder: Path, files: str) -> list[Path]:
    """List the files of a pattern, sorted; the one file of that name, if there is one with the signs of a pattern."""
    if (folder / files).is_file():
        return [folder / files]
    return [path for path in sorted(folder.glob("**/*" if files == "*" else files)) if path.is_file()]


def _known(matching: list[Path], folder: Path, files: str, file_format: str) -> list[Path]:
    """Keep the files of a known format; see `matching_files`."""
    if matching == [folder / files]:
        _require_known(matching, file_format)
        return matching
    if not matching:
        names = ", ".join(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
        raise FetchError(f"prepare.tables: no file of {folder} matches {files!r}; it has {names[:300] or 'none'}")
    known = [path for path in matching if file_format != "auto" or _is_data(path)]
    if not known:
        _require_known(matching, file_format)
    return known


def _is_data(path: Path) -> bool:
    return path.name not in _DESCRIPTIONS and format_of(path) is not None


def _require_known(paths: Sequence[Path], file_format: str) -> None:
    for path in paths:
        compression.refuse_unsupported(path)
    if file_format == "auto" and format_of(paths[0]) is None:
        if paths[0].suffix.lower() == ".zip":
            read_contents(paths[0])  # Raises an error about the archive, if that is the problem.
        raise FormatError(
            f"{', '.join(path.name for path in paths[:3])}: the suffix names no known format ({', '.join(SUFFIXES)}, "
            f"each also with {', '.join(compression.SUFFIXES)}); set `format` of this table in prepare.tables (`lines` "
            "if each line is one text)"
        )


def format_of(path: Path) -> str | None:
    """Detect the format of a file by its suffix, without that of a compression, or by its content. None: unknown."""
    suffix = Path(inner_name(path)).suffix.lower()
    if suffix in SUFFIXES and path.suffix.lower() != ".tsv":
        return SUFFIXES[suffix]
    if suffix not in (".txt", ".tsv", ".data", "") or path.name.startswith("."):
        return None
    with path.open("rb") as handle:
        start = handle.read(100_000)
    return "conll" if looks_like_conll(start.decode("utf-8-sig", "replace")) else SUFFIXES.get(suffix)


def read_file(
    path: Path,
    file_format: str = "auto",
    columns: Sequence[str] | None = None,
    limit: int = sys.maxsize,
    separator: str | None = None,
) -> Table:
    """Read one file. See `read_tables`."""
    if file_format == "auto":
        _require_known([path], file_format)
        file_format = format_of(path) or file_format
    contents = read_contents(path)
    table = _read(contents, path.as_posix(), file_format, columns, limit, separator)
    if contents.compression is not None:
        table = replace(table, compression=contents.compression).with_notes(f"unpacked from {contents.compression}")
    return check_table(table, limit)


def _read(
    contents: Contents,
    location: str,
    file_format: str,
    columns: Sequence[str] | None,
    limit: int,
    separator: str | None,
) -> Table:
    if file_format == "parquet":
        return recognise_export(read_parquet(contents.data, location))
    text, notes = decode(contents.data, location, contents.name)
    if file_format in ("json", "jsonl"):
        table = recognise_export(read_json(text, location, file_format))
    elif file_format == "conll":
        table = read_conll(text, location, columns, contents.name.lower().endswith((".conllu", ".conllup")))
    elif file_format == "lines":
        table = _read_lines(text, location, columns)
    else:
        table = recognise_export(read_delimited(text, location, file_format, columns, limit, separator))
    return replace(table, notes=(*notes, *table.notes))


def check_table(table: Table, limit: int) -> Table:
    """Check a table and return it unchanged.

    Raises:
        EmptyDataError: it has no rows.
        CellSizeError: a cell has more characters than the limit.
    """
    if not len(table):
        raise EmptyDataError(f"{table.location} has no rows; give a file with data")
    for name, values in table.columns.items():
        for row, value in enumerate(values):
            if isinstance(value, str) and len(value) > limit:
                raise cell_too_long(table.row_location(row), name, len(value), limit)
    return table


def _read_lines(text: str, location: str, columns: Sequence[str] | None) -> Table:
    """Read one text a line. Blank lines are skipped."""
    if columns is not None and len(columns) != 1:
        raise FormatError(
            f"{location} is read as lines, which have one column, but prepare.tables names {len(columns)} "
            f"({', '.join(columns)}); name one, or set another `format`"
        )
    rows = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    name = columns[0] if columns else "text"
    return Table(location, {name: [line for _, line in rows]}, [number for number, _ in rows], format="lines")
