"""The columns of several files together, and how a message names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill.data.formats.tabular import Table
from potstill.data.proposals.look import ColumnLook, Kind, TableLook

# Characters of a text on average from which it is a text rather than a name.
LONG = 20
# What counts as more different values than any set of labels has.
MANY = 1_000_000
_WORDS: Mapping[Kind, str] = {
    "labels": "lists of names",
    "words": "lists of words",
    "tags": "lists of tags",
    "spans": "places in the text",
    "answers": "answers with their places",
    "object": "objects",
    "empty": "empty",
}
_NUMBERS: tuple[Kind, ...] = ("integer", "number")
_LISTS: tuple[Kind, ...] = ("labels", "words", "tags")


def merge_columns(looks: Sequence[TableLook]) -> dict[str, ColumnLook]:
    """Each column over all files, in their order."""
    columns: dict[str, ColumnLook] = {}
    for look in looks:
        for column in look.columns:
            columns[column.name] = merge(columns[column.name], column) if column.name in columns else column
    return columns


def merge(first: ColumnLook, second: ColumnLook) -> ColumnLook:
    """One column of two files."""
    rows = first.rows + second.rows
    values = None
    if first.values is not None and second.values is not None:
        values = dict((Counter(first.values) + Counter(second.values)).most_common())
    return replace(
        first,
        kind=_common_kind(first.kind, second.kind),
        rows=rows,
        missing=first.missing + second.missing,
        missing_words=first.missing_words + second.missing_words,
        values=values,
        class_names=first.class_names or second.class_names,
        several=first.several + second.several,
        as_text=first.as_text or second.as_text,
        longest=max(first.longest, second.longest),
        mean_length=(first.mean_length * first.rows + second.mean_length * second.rows) / max(rows, 1),
    )


def _common_kind(first: Kind, second: Kind) -> Kind:
    kinds = {first, second} - {"empty"}
    if len(kinds) < 2:
        return next(iter(kinds), "empty")
    if kinds <= set(_NUMBERS):
        return "number"
    return next((kind for kind in (first, second) if kind not in (*_NUMBERS, "text")), "text")


def different(column: ColumnLook) -> int:
    """How many different values a column has; `MANY` where nobody counted further."""
    return MANY if column.values is None else len(column.values)


def is_long_text(column: ColumnLook) -> bool:
    """Whether a column holds texts rather than names."""
    return column.kind == "text" and column.mean_length >= LONG


def values_of(tables: Sequence[Table], name: str) -> list[Any]:
    """A column's values in all tables, which may be at a dotted path; None in tables that lack it."""
    return [
        value for table in tables for value in (table.column(name) if name in table.names() else [None] * len(table))
    ]


def in_words(column: ColumnLook) -> str:
    """A column for a message: `'stars' (integer, 5 different)`."""
    return f"{column.name!r} ({', '.join(_facts(column))})"


def listed(columns: Iterable[ColumnLook]) -> str:
    """Columns for a message."""
    return ", ".join(map(in_words, list(columns)[:20]))


def _facts(column: ColumnLook) -> list[str]:
    count = different(column)
    shown = "many different" if count == MANY else f"{count:,} different"
    if column.kind == "text":
        facts = [f"text, {column.mean_length:.0f} characters on average" if is_long_text(column) else f"text, {shown}"]
    elif column.kind in _NUMBERS:
        facts = [f"{column.kind}, {shown}"]
    else:
        facts = [_WORDS[column.kind] + (" written as text" if column.as_text else "")]
    if column.class_names:
        facts.append(f"{len(column.class_names)} named classes")
    missing = column.missing + column.missing_words
    if missing and column.kind != "empty":
        facts.append(f"{missing:,} missing")
    return facts
