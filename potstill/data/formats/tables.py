"""Tables as files hold them: CSV and TSV, JSON, Parquet, CoNLL, plain lines, folders saved by `datasets`, compressed or
not.

Text files are read strictly: what is not UTF-8, has NUL bytes or rows of uneven length is refused with its place,
never guessed at. A value of a text file is a string; nothing is inferred from its look.
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
from potstill.data.formats.exports import recognise
from potstill.data.formats.json_rows import read_json
from potstill.data.formats.tabular import Table
from potstill.data.splits.split_names import check_split_names, splits_of_files
from potstill.errors import EmptyDataError, FetchError, FormatError

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
    form: str,
    columns: Sequence[str] | None,
    limit: int,
    separator: str | None = None,
    *,
    mixed: bool = False,
) -> Iterator[Table]:
    """Read the files of a source that match a pattern.

    Args:
        folder: the source's folder in `data/raw`.
        files: a file's name, or a glob pattern within it (of a saved folder: of its splits' names); `*` means all
            files below.
        form: csv, tsv, json, jsonl, parquet, conll, lines, saved, or auto (by suffix; a saved folder by its files).
        columns: names for files without a header; of lines the one name, else `text`.
        limit: characters a cell may have.
        separator: of a CSV file; None: it is looked for.
        mixed: whether names that look like splits mean nothing.

    Raises:
        FetchError: no file matches.
        FormatError, EncodingError, NulByteError, CellSizeError, EmptyDataError: see the class of each.
    """
    if form == "saved" or (form == "auto" and is_saved(folder)):
        tables = list(read_saved(folder, files))
        if not mixed:
            check_split_names([table.split or "" for table in tables if table.split], folder.as_posix())
        yield from (checked(table, limit) for table in tables)
        return
    paths = matching_files(folder, files, form)
    splits = {} if mixed else splits_of_files([path.relative_to(folder) for path in paths], folder.as_posix())
    for path in paths:
        table = read_file(path, form, columns, limit, separator)
        yield replace(table, split=splits.get(path.relative_to(folder), table.split))


def matching_files(folder: Path, files: str, form: str) -> list[Path]:
    """The files of a source that a pattern names, sorted.

    Raises:
        FetchError: there are none.
        FormatError: none of them is of a known form, or (named by itself) it is a document or an archive.
    """
    if (folder / files).is_file():  # a name may have the signs of a pattern
        _require_known([folder / files], form)
        return [folder / files]
    matching = [path for path in sorted(folder.glob("**/*" if files == "*" else files)) if path.is_file()]
    if not matching:
        there = ", ".join(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
        raise FetchError(f"prepare.tables: no file of {folder} matches {files!r}; it has {there[:300] or 'none'}")
    known = [path for path in matching if form != "auto" or _is_data(path)]
    if not known:
        _require_known(matching, form)
    return known


def _is_data(path: Path) -> bool:
    return path.name not in _DESCRIPTIONS and form_of(path) is not None


def _require_known(paths: Sequence[Path], form: str) -> None:
    for path in paths:
        compression.refuse_foreign(path)
    if form == "auto" and form_of(paths[0]) is None:
        if paths[0].suffix.lower() == ".zip":
            read_contents(paths[0])  # says what is wrong with the archive itself
        raise FormatError(
            f"{', '.join(path.name for path in paths[:3])}: the suffix names no known format ({', '.join(SUFFIXES)}, "
            f"each also with {', '.join(compression.SUFFIXES)}); set `format` of this table in prepare.tables (`lines` "
            "if each line is one text)"
        )


def form_of(path: Path) -> str | None:
    """The form of a file by its suffix, that of a compression aside, or by its look; None where neither tells."""
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
    form: str = "auto",
    columns: Sequence[str] | None = None,
    limit: int = sys.maxsize,
    separator: str | None = None,
) -> Table:
    """Read one file. See `read_tables`."""
    if form == "auto":
        _require_known([path], form)
        form = form_of(path) or form
    contents = read_contents(path)
    table = _read(contents, path.as_posix(), form, columns, limit, separator)
    if contents.compression is not None:
        table = replace(table, compression=contents.compression).noted(f"unpacked from {contents.compression}")
    return checked(table, limit)


def _read(
    contents: Contents, where: str, form: str, columns: Sequence[str] | None, limit: int, separator: str | None
) -> Table:
    if form == "parquet":
        return recognise(read_parquet(contents.data, where))
    text, notes = decode(contents.data, where, contents.name)
    if form in ("json", "jsonl"):
        table = recognise(read_json(text, where, form))
    elif form == "conll":
        table = read_conll(text, where, columns, contents.name.lower().endswith((".conllu", ".conllup")))
    elif form == "lines":
        table = _read_lines(text, where, columns)
    else:
        table = recognise(read_delimited(text, where, form, columns, limit, separator))
    return replace(table, notes=(*notes, *table.notes))


def checked(table: Table, limit: int) -> Table:
    """The table as it is.

    Raises:
        EmptyDataError: it has no rows.
        CellSizeError: a cell has more characters than the limit.
    """
    if not len(table):
        raise EmptyDataError(f"{table.where} has no rows; give a file with data")
    for name, values in table.columns.items():
        for row, value in enumerate(values):
            if isinstance(value, str) and len(value) > limit:
                raise cell_too_long(table.place(row), name, len(value), limit)
    return table


def _read_lines(text: str, where: str, columns: Sequence[str] | None) -> Table:
    """One text a line; a line without one is no row."""
    if columns is not None and len(columns) != 1:
        raise FormatError(
            f"{where} is read as lines, which have one column, but prepare.tables names {len(columns)} "
            f"({', '.join(columns)}); name one, or set another `format`"
        )
    rows = [(place, line) for place, line in enumerate(text.split("\n"), start=1) if line.strip()]
    name = columns[0] if columns else "text"
    return Table(where, {name: [line for _, line in rows]}, [place for place, _ in rows], format="lines")
