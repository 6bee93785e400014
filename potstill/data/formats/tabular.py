"""A table in memory: the columns of one file, and where each of its rows is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from potstill.data.formats.cells import at_path, is_nested, paths_of
from potstill.errors import FormatError, MissingColumnError

# Rows whose nested values are looked at to name the paths that exist.
_LOOKED_AT = 100
_NAMED = 20


@dataclass(frozen=True)
class Table:
    """One file's columns.

    Attributes:
        where: its path, for messages.
        columns: name -> one value a row; None where a row has none.
        places: [rows] where each row is in the file, counted from 1.
        unit: what `places` counts: "line" of a text file, "row" of another.
        split: the split that the file itself or its name gives, else None.
        class_names: column -> names of its integer classes (`datasets` ClassLabel).
        notes: what the user should know of the reading.
        undecided: row (from 0) -> why an annotation tool gives it no valid label, such as "answer: reject".
        format: csv, tsv, jsonl, json, parquet, lines, conll, saved; empty where the table was made otherwise.
        separator: of a delimited file.
        compression: gz, zst, bz2, xz or zip.
        tool: the annotation tool whose export the file is, or SQuAD.
    """

    where: str
    columns: dict[str, list[Any]]
    places: Sequence[int]
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
        return len(self.places)

    def place(self, row: int) -> str:
        """Where a row (from 0) is, for messages."""
        return f"{self.where}, {self.unit} {self.places[row]}"

    def noted(self, *notes: str) -> Table:
        """The same table with further notes."""
        return replace(self, notes=(*self.notes, *notes))

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

    def names(self) -> list[str]:
        """Names of the columns; of one with objects, the dotted paths in it."""
        result: dict[str, None] = {}
        for name, values in self.columns.items():
            objects = [value for value in values[:_LOOKED_AT] if isinstance(value, Mapping)]
            paths = dict.fromkeys(path for value in objects for path in paths_of(value, name))
            result |= paths or {name: None}
        return list(result)

    def column(self, name: str) -> list[Any]:
        """A column's values, or those at a dotted path into it (`ticket.body`, `annotations.0.label`).

        Raises:
            MissingColumnError: there is none of that name; the message has those there are.
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
            f"{self.where} has no column {name!r}; {guess} has {', '.join(map(repr, names[:_NAMED]))} "
            f"({self._advice()})"
        )

    def texts(self, name: str) -> list[Any]:
        """A column of texts, numbers and gaps.

        Raises:
            MissingColumnError: there is none of that name.
            FormatError: it holds lists or objects; the message has the paths into them.
        """
        values = self.column(name)
        for row, value in enumerate(values):
            if isinstance(value, bytes):
                raise FormatError(f"{self.place(row)}: column {name!r} holds bytes, not texts; store it as strings")
            if is_nested(value):
                raise FormatError(f"{self.place(row)}: {_not_a_text(name, value)}")
        return values

    def _nested(self, name: str) -> list[Any] | None:
        steps = name.split(".")
        for length in range(len(steps) - 1, 0, -1):
            head = ".".join(steps[:length])
            if head in self.columns:
                values = [at_path(value, steps[length:]) for value in self.columns[head]]
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
    return f"column {name!r} holds objects, not texts; name what is in them: {', '.join(paths[:_NAMED])}"
