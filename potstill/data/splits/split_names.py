"""Which split a row is given: by a column, by params, by what the data calls its splits, or by the names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from potstill.data.formats.cells import is_nested
from potstill.data.formats.tabular import Table
from potstill.errors import FormatError

# What split columns, saved datasets and files call the splits, in lower case.
NAMES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "dev": "dev",
    "devel": "dev",
    "development": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "transfer": "transfer",
    "unlabelled": "transfer",
    "unlabeled": "transfer",
    "unsupervised": "transfer",
}
# A labelled row for which the data names no split.
AUTO = "auto"
# Of params: rows whose given splits are put together and drawn anew.
DRAW = "draw"
# What a column that names splits is called where params do not say.
_COLUMNS = ("split", "splits", "subset", "partition", "set", "fold", "data_split", "split_name", "usage")
_PARTS = re.compile(r"[^a-z]+")
_REMEDY = "give each its `files` and `split` in prepare.tables, or set `split: draw` to put them together and draw anew"


def split_named(name: str) -> str | None:
    """The split that a name speaks of: `train-00000-of-00002`, `data.valid`, `validation_matched`; None: none, or two.

    Words that are joined by other signs than letters are looked at, from the last folder to the name's end.
    """
    if name.lower() in NAMES:
        return NAMES[name.lower()]
    splits = {NAMES[part] for part in _PARTS.split(name.lower()) if part in NAMES}
    return splits.pop() if len(splits) == 1 else None


def splits_of_files(files: Sequence[PurePath], where: str) -> dict[PurePath, str]:
    """The split of each of several files by its name; empty where their names do not look like splits.

    Args:
        files: relative to their source.
        where: of what they are, for messages.

    Raises:
        FormatError: some look like splits, others do not.
    """
    named = {file: _of_file(file) for file in files}
    if len({split for split in named.values() if split is not None}) < 2:
        return {}
    missing = [file.as_posix() for file, split in named.items() if split is None]
    if missing:
        known = [file.as_posix() for file, split in named.items() if split is not None]
        raise FormatError(
            f"{where}: the names of {', '.join(known[:3])} look like splits, but not that of {missing[0]}; {_REMEDY}"
        )
    return {file: split for file, split in named.items() if split is not None}


def _of_file(file: PurePath) -> str | None:
    """By the name itself, else by the folders above it, the nearest first."""
    for part in reversed(file.parts):
        split = split_named(part)
        if split is not None:
            return split
    return None


def check_split_names(names: Sequence[str], where: str) -> None:
    """Refuse splits of a saved data set of which some have a name that is known and others do not.

    Raises:
        FormatError: it is so.
    """
    unknown = [name for name in names if split_named(name) is None]
    if unknown and len(unknown) < len(names):
        raise FormatError(
            f"{where} has the split {unknown[0]!r}, whose name is not known, next to "
            f"{', '.join(name for name in names if name not in unknown)}; {_REMEDY}"
        )


def split_column(table: Table) -> str | None:
    """The column whose values name splits, two different ones at least; None where there is none."""
    for name, values in table.columns.items():
        if name.strip().lower() in _COLUMNS and not any(map(is_nested, values)):
            told = {_told(value) for value in values}
            if len(told) > 1 and told != {None}:
                return name
    return None


def given_splits(table: Table, split: str, column: str | None) -> list[str]:
    """The split that each row of a table is given: by its column, else by params, else by the data itself, else AUTO.

    Raises:
        MissingColumnError: no such column.
        FormatError: a value that names no split.
    """
    if column is None and split == AUTO:
        column = split_column(table)
    if column is None:
        named = split_named(table.split or "") or AUTO if split == AUTO else split
        return [AUTO if named == DRAW else named] * len(table)
    result = []
    for row, value in enumerate(table.column(column)):
        name = _told(value)
        if name is None:
            raise FormatError(
                f"{table.place(row)}: {value!r} in the split column {column!r} names no split; use "
                f"{', '.join(NAMES)}, or set `split: draw` of this table to draw all its splits anew"
            )
        result.append(name)
    return result


def _told(value: object) -> str | None:
    return NAMES.get(str(value).strip().lower())
