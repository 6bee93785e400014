"""What the columns of tables hold: the look on which a proposal for `prepare` is based."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from potstill.data.cells import is_absent, is_missing_text, is_missing_word, is_nested, parsed
from potstill.data.label_cells import labels_in
from potstill.data.tabular import Table

# texts, numbers; lists of names or numbers, also as JSON or Python writes them into a text; places in a text; SQuAD's
# answers; other objects.
Kind = Literal["empty", "texts", "numbers", "lists", "marks", "answers", "objects"]
# Rows that are looked at to tell the kind, evenly spread: files are often sorted.
SAMPLE = 5_000
_WORDS: Mapping[Kind, str] = {
    "empty": "empty",
    "lists": "lists",
    "marks": "lists of places in the text",
    "answers": "answers with their places",
    "objects": "objects",
}


@dataclass(frozen=True)
class Column:
    """A column of all tables together.

    Attributes:
        name: its name.
        kind: what most of it is: see `Kind`.
        rows: values, those that are missing included.
        gaps: values that are missing: None, NaN, blanks, and words that programs write for them.
        distinct: different values.
        words: of a text on average.
        integers: whether all numbers are whole.
        as_text: whether lists or objects are written into texts.
        class_names: of integer classes, by the data's own schema.
    """

    name: str
    kind: Kind
    rows: int
    gaps: int
    distinct: int
    words: float = 0.0
    integers: bool = False
    as_text: bool = False
    class_names: Sequence[str] = field(default=())

    def __str__(self) -> str:
        """The column in words: `'stars' (numbers, 5 different)`."""
        return f"{self.name!r} ({', '.join(self._facts())})"

    def _facts(self) -> list[str]:
        facts = []
        if self.kind == "texts":
            facts = [f"text, {self.words:.0f} words" if self.words >= 3 else f"text, {self.distinct:,} different"]
        elif self.kind == "numbers":
            facts = [f"{'integers' if self.integers else 'numbers'}, {self.distinct:,} different"]
        else:
            facts = [_WORDS[self.kind] + (" written as text" if self.as_text else "")]
        if self.class_names:
            facts.append(f"{len(self.class_names)} named classes")
        if 0 < self.gaps < self.rows:
            facts.append(f"{self.gaps:,} missing")
        return facts


def look_at_columns(tables: Sequence[Table]) -> dict[str, Column]:
    """All columns of the tables by name, in the tables' order."""
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return {name: look_at(name, values_of(tables, name), class_names_of(tables, name)) for name in names}


def values_of(tables: Sequence[Table], name: str) -> list[Any]:
    """A column's values in all tables, which may be at a dotted path; None in tables that lack it."""
    return [value for table in tables for value in _column(table, name)]


def _column(table: Table, name: str) -> Sequence[Any]:
    if name in table.columns or name.split(".")[0] in table.columns:
        return table.column(name)
    return [None] * len(table)


def class_names_of(tables: Sequence[Table], name: str) -> Sequence[str]:
    """The names of a column's integer classes; empty where there are none."""
    return next((table.class_names[name] for table in tables if name in table.class_names), ())


def look_at(name: str, values: Sequence[Any], class_names: Sequence[str] = ()) -> Column:
    """What a column holds."""
    present = [value for value in values if not is_gap(value)]
    sample = present[:: max(1, len(present) // SAMPLE)]
    plain = [parsed(value) for value in sample]
    kind = _kind(plain)
    return Column(
        name,
        kind,
        rows=len(values),
        gaps=len(values) - len(present),
        distinct=len({_hashable(value) for value in present}),
        words=fmean(len(str(value).split()) for value in sample) if kind == "texts" else 0.0,
        integers=kind == "numbers" and all(float(value).is_integer() for value in sample),
        as_text=any(isinstance(value, str) and is_nested(read) for value, read in zip(sample, plain, strict=True)),
        class_names=class_names,
    )


def is_gap(value: Any) -> bool:
    """Whether a cell has no value, or a word that stands for none."""
    return (not is_nested(value) and is_absent(value)) or is_missing_word(value)


def is_text_gap(value: Any) -> bool:
    """Whether a cell of a column of texts has none."""
    return (not is_nested(value) and is_absent(value)) or is_missing_text(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number, or a text that is one."""
    if isinstance(value, bool) or is_nested(value):
        return False
    try:
        return float(value) == float(value)
    except (TypeError, ValueError):
        return False


def labels_of(value: Any) -> list[Any]:
    """The labels that a cell names: those of a list or an object, else the cell itself.

    Raises:
        ValueError: a list or an object without names.
    """
    read = parsed(value)
    return labels_in(read) if is_nested(read) else [value]


def _kind(values: Sequence[Any]) -> Kind:
    nested = [value for value in values if is_nested(value)]
    if not values:
        return "empty"
    if nested:
        return _nested_kind(nested)
    return "numbers" if all(map(is_number, values)) else "texts"


def _nested_kind(values: Sequence[Any]) -> Kind:
    if all(isinstance(value, Mapping) and "answer_start" in value for value in values):
        return "answers"
    if any(_is_mark(item) for value in values if isinstance(value, (list, tuple)) for item in value):
        return "marks"
    try:
        for value in values:
            labels_in(value)
    except ValueError:
        return "objects"
    return "lists"


def _is_mark(item: Any) -> bool:
    """Whether an item of a list is a place in a text: an object with its ends, or [start, end, label]."""
    if isinstance(item, Mapping):
        return {"start", "end"} <= set(item) or {"start_offset", "end_offset"} <= set(item)
    return isinstance(item, (list, tuple)) and len(item) == 3 and all(isinstance(end, int) for end in item[:2])


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else repr(value)


def listed(columns: Iterable[Column]) -> str:
    """Columns for a message."""
    return ", ".join(map(str, list(columns)[:20]))
