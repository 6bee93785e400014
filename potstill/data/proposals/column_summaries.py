"""Merges the summaries of columns over several files, and describes columns in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill.data.formats.tabular import Table
from potstill.data.proposals.table_summaries import ColumnSummary, Kind, TableSummary

# From this mean length on, a column holds texts rather than names.
LONG_TEXT = 20
# Stands for more different values than any set of labels has.
TOO_MANY = 1_000_000
_WORDS: Mapping[Kind, str] = {
    "labels": "lists of names",
    "words": "lists of words",
    "tags": "lists of tags",
    "spans": "spans of the text",
    "answers": "answers with their starts",
    "object": "objects",
    "empty": "empty",
}
_NUMBERS: tuple[Kind, ...] = ("integer", "number")


def merge_summaries(summaries: Sequence[TableSummary]) -> dict[str, ColumnSummary]:
    """Merge the columns of all files, in their order."""
    columns: dict[str, ColumnSummary] = {}
    for summary in summaries:
        for column in summary.columns:
            columns[column.name] = merge_column(columns[column.name], column) if column.name in columns else column
    return columns


def merge_column(first: ColumnSummary, second: ColumnSummary) -> ColumnSummary:
    """Merge a column of two files."""
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


def distinct_count(column: ColumnSummary) -> int:
    """Count the different values of a column; `TOO_MANY` if they were not counted to the end."""
    return TOO_MANY if column.values is None else len(column.values)


def is_long_text(column: ColumnSummary) -> bool:
    """Whether a column holds texts rather than names."""
    return column.kind == "text" and column.mean_length >= LONG_TEXT


def column_values(tables: Sequence[Table], name: str) -> list[Any]:
    """List the values of a column or a dotted path in all tables, with None for tables that lack it."""
    return [
        value for table in tables for value in (table.column(name) if name in table.names() else [None] * len(table))
    ]


def describe_column(column: ColumnSummary) -> str:
    """Describe a column in a message: `'stars' (integer, 5 different)`."""
    return f"{column.name!r} ({', '.join(_facts(column))})"


def describe_columns(columns: Iterable[ColumnSummary]) -> str:
    """Describe columns in a message."""
    return ", ".join(map(describe_column, list(columns)[:20]))


def _facts(column: ColumnSummary) -> list[str]:
    count = distinct_count(column)
    shown = "many different" if count == TOO_MANY else f"{count:,} different"
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
