"""Reads the splits that the data gives: by a column, by the names of saved splits, or by the names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from potstill.data.formats.cells import is_nested
from potstill.data.formats.tabular import Table
from potstill.errors import FormatError

# The names of splits in columns, saved data sets and files, in lower case.
SPLIT_NAMES = {
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
# The split of a labelled row for which the data names none.
AUTO = "auto"
# The value in params for tables whose given splits are merged and drawn anew.
DRAW = "draw"
# The names of a column of splits where params name none.
_COLUMNS = ("split", "splits", "subset", "partition", "set", "fold", "data_split", "split_name", "usage")
_PARTS = re.compile(r"[^a-z]+")
_REMEDY = "give each its `files` and `split` in prepare.tables, or set `split: draw` to merge them and draw new splits"


def split_named(name: str) -> str | None:
    """Recognise the split in a name such as `train-00000-of-00002`, `data.valid` or `validation_matched`.

    The words of the name are compared, which are separated by anything but letters. None: it names no split, or two.
    """
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    splits = {SPLIT_NAMES[part] for part in _PARTS.split(name.lower()) if part in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def splits_of_files(files: Sequence[PurePath], location: str) -> dict[PurePath, str]:
    """Map files to the splits in their names. The map is empty if the names do not look like splits.

    Args:
        files: paths relative to their source.
        location: the source, for messages.

    Raises:
        FormatError: some names look like splits, others do not.
    """
    named = {file: _of_file(file) for file in files}
    if len({split for split in named.values() if split is not None}) < 2:
        return {}
    missing = [file.as_posix() for file, split in named.items() if split is None]
    if missing:
        known = [file.as_posix() for file, split in named.items() if split is not None]
        raise FormatError(
            f"{location}: the names of {', '.join(known[:3])} look like splits, but not that of {missing[0]}; {_REMEDY}"
        )
    return {file: split for file, split in named.items() if split is not None}


def _of_file(file: PurePath) -> str | None:
    """Recognise the split in a file's name, else in the names of its folders, from the last one up."""
    for part in reversed(file.parts):
        split = split_named(part)
        if split is not None:
            return split
    return None


def check_split_names(names: Sequence[str], location: str) -> None:
    """Refuse a saved data set in which only some of the splits have a known name.

    Raises:
        FormatError: a split has an unknown name next to known ones.
    """
    unknown = [name for name in names if split_named(name) is None]
    if unknown and len(unknown) < len(names):
        raise FormatError(
            f"{location} has the split {unknown[0]!r}, whose name is not known, next to "
            f"{', '.join(name for name in names if name not in unknown)}; {_REMEDY}"
        )


def split_column(table: Table) -> str | None:
    """Find the column of splits by its name. Some of its values name splits.

    Values that are all alike count where the table's own name gives no split: its other files may have other values.
    """
    for name, values in table.columns.items():
        if name.strip().lower() in _COLUMNS and not any(map(is_nested, values)):
            splits = {_split_of_value(value) for value in values}
            if len(splits) > 1 or (splits != {None} and split_named(table.split or "") is None):
                return name
    return None


def given_splits(table: Table, split: str, column: str | None) -> list[str]:
    """Read the split of each row of a table: from a column, else from params, else from the table's name, else AUTO.

    Raises:
        MissingColumnError: no such column.
        FormatError: a value that names no split.
    """
    if column is None and split == AUTO:
        column = split_column(table)
    if column is None:
        name = split_named(table.split or "") or AUTO if split == AUTO else split
        return [AUTO if name == DRAW else name] * len(table)
    splits = []
    for row, value in enumerate(table.column(column)):
        split_name = _split_of_value(value)
        if split_name is None:
            raise FormatError(
                f"{table.row_location(row)}: {value!r} in the split column {column!r} names no split; use "
                f"{', '.join(SPLIT_NAMES)}, or set `split: draw` of this table to draw all its splits anew"
            )
        splits.append(split_name)
    return splits


def _split_of_value(value: object) -> str | None:
    return SPLIT_NAMES.get(str(value).strip().lower())
