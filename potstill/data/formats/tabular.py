"""A table in memory: the columns of a file, and the location of each row in it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from potstill.data.formats.cells import is_nested, paths_of, value_at_path
from potstill.errors import FormatError, MissingColumnError

# Rows whose nested values are inspected for paths.
_SAMPLE_ROWS = 100
# Columns that a message lists.
_MAX_NAMES = 20


@dataclass(frozen=True)
class Table:
    """The columns of a file.

    Attributes:
        location: its path, for messages.
        columns: name -> one value a row; None for a missing value.
        row_numbers: [rows] number of each row in the file, counted from 1.
        unit: the unit of `row_numbers`: "line" in a text file, "row" in others.
        split: the split that the file or its name gives, else None.
        class_names: column -> names of its integer classes (`datasets` ClassLabel).
        notes: what the user should know about the reading.
        undecided: row (from 0) -> why an annotation tool gives it no valid label, such as "answer: reject".
        format: csv, tsv, jsonl, json, parquet, lines, conll or saved; empty for a table that was not read from a file.
        separator: of a delimited file.
        compression: gz, zst, bz2, xz or zip.
        tool: the annotation tool that exported the file, or SQuAD.
    """

    location: str
    columns: dict[str, list[Any]]
    row_numbers: Sequence[int]
    unit: str = "line"
    split: str | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    undecided: Mapping[int, str] = field(default_factory=dict)
    format: str = ""
    separator: str | None = None
    compression: str | None = None
    tool: str | None = None

    def __len__(self) -> int:
        return len(self.row_numbers)

    def row_location(self, row: int) -> str:
        """Name the location of a row (from 0) for messages."""
        return f"{self.location}, {self.unit} {self.row_numbers[row]}"

    def with_notes(self, *notes: str) -> Table:
        """Copy the table with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_constants(self, constants: Mapping[str, str | int]) -> Table:
        """Copy the table with further columns, each of one constant value.

        Raises:
            FormatError: the file has such a column already.
        """
        twice = next((name for name in constants if name in self.columns), None)
        if twice is not None:
            raise FormatError(
                f"{self.location} has a column {twice!r} of its own, which `constants` of prepare.tables names too; "
                "give the constant another name"
            )
        return replace(self, columns=self.columns | {name: [value] * len(self) for name, value in constants.items()})

    def names(self) -> list[str]:
        """List the names of the columns. A column of objects is listed by the dotted paths into it."""
        names: dict[str, None] = {}
        for name, values in self.columns.items():
            objects = [value for value in values[:_SAMPLE_ROWS] if isinstance(value, Mapping)]
            paths = dict.fromkeys(path for value in objects for path in paths_of(value, name))
            names |= paths or {name: None}
        return list(names)

    def column(self, name: str) -> list[Any]:
        """Return a column's values, or those at a dotted path into it (`ticket.body`, `annotations.0.label`).

        Raises:
            MissingColumnError: there is no such column. The message lists the columns.
        """
        if name in self.columns:
            return self.columns[name]
        nested = self._nested(name)
        if nested is not None:
            return nested
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? It" if near else "it"
        raise MissingColumnError(
            f"{self.location} has no column {name!r}; {guess} has {', '.join(map(repr, names[:_MAX_NAMES]))} "
            f"({self._advice()})"
        )

    def texts(self, name: str) -> list[Any]:
        """Return a column of texts, numbers and missing values.

        Raises:
            MissingColumnError: there is no such column.
            FormatError: it holds bytes, lists or objects. The message lists the paths into objects.
        """
        values = self.column(name)
        for row, value in enumerate(values):
            if isinstance(value, bytes):
                raise FormatError(
                    f"{self.row_location(row)}: column {name!r} holds bytes, not texts; store it as strings"
                )
            if is_nested(value):
                raise FormatError(f"{self.row_location(row)}: {_not_a_text(name, value)}")
        return values

    def _nested(self, name: str) -> list[Any] | None:
        steps = name.split(".")
        for length in range(len(steps) - 1, 0, -1):
            head = ".".join(steps[:length])
            if head in self.columns:
                values = [value_at_path(value, steps[length:]) for value in self.columns[head]]
                return values if any(value is not None for value in values) else None
        return None

    def _advice(self) -> str:
        if self.separator is not None and len(self.columns) == 1:
            return (
                f"its header is one cell; if another sign than {self.separator!r} separates the columns, set "
                "`separator` of this table in prepare.tables"
            )
        return "name the right one under prepare, or give `columns` for a file without a header"


def _not_a_text(name: str, value: Any) -> str:
    paths = list(dict.fromkeys(paths_of(value, name)))
    if paths == [name]:
        return (
            f"column {name!r} holds lists, not texts; name another column, or, if they are words with tags, set "
            "prepare.task to token_classification"
        )
    return f"column {name!r} holds objects, not texts; name a path into them: {', '.join(paths[:_MAX_NAMES])}"
