"""Labels: what rows carry, in a form that can be compared."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from potstill.config import LabelColumns, LabelNumber, LabelOrder, LabelRanges, LabelSign, TaskKind, ValueLabel
from potstill.data.tables import Table
from potstill.data.tags import TaggedUnit, Unit
from potstill.errors import LabelError

# Without leading zeros: "01" is a name, not the number 1.
_INTEGER = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")
# White space and invisible marks (zero-width characters, the byte order mark) at either end of a name.
_AROUND = re.compile(r"^[\s\u200b\u200c\u200d\u2060\ufeff]+|[\s\u200b\u200c\u200d\u2060\ufeff]+$")


# A class's key; the keys of the labels that hold, sorted; a number.
Value = str | tuple[str, ...] | float | tuple[TaggedUnit, ...] | tuple[Unit, ...]


def read_labels(
    table: Table,
    rows: Sequence[int],
    label: ValueLabel,
    labels: Sequence[str | int] | None,
    task: TaskKind = "single_label",
) -> list[Any]:
    """The labels of some rows, each a `Value`; None where a rating is too near to zero to tell.

    Args:
        table: the rows' table.
        rows: indices of the rows that need a label.
        label: where it is.
        labels: the declared set, if there is one.
        task: what a column of labels holds: one a row or several.

    Raises:
        MissingColumnError: no such column.
        LabelError: a row has no label, a rating that is no number or is out of range, or (with declared labels) one
            outside the set.
    """
    if isinstance(label, LabelColumns):
        flags = {name: table.column(name) for name in label.columns}
        return [_flagged(table, row, {name: values[row] for name, values in flags.items()}) for row in rows]
    values = table.column(label.column)
    if isinstance(label, LabelSign):
        return [_sign(table, row, values[row], label) for row in rows]
    if isinstance(label, LabelNumber):
        return [_within(table, row, values[row], label) for row in rows]
    if isinstance(label, LabelRanges):
        return [_ranged(table, row, values[row], label) for row in rows]
    if isinstance(label, LabelOrder):
        return [number(table, row, values[row], label.column) for row in rows]
    names = table.class_names.get(label.column)
    if names and not (labels and all(isinstance(item, int) for item in labels)):
        values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    known = {normal_label(item) for item in labels} if labels else None
    if task == "multi_label":
        return [_several(table, row, values[row], label.column, label.separator, known) for row in rows]
    return [_checked(table, row, values[row], label.column, known) for row in rows]


def label_set(keys: Iterable[str], declared: Sequence[str | int] | None) -> list[str | int]:
    """Labels in the order of their class indices: as declared, else sorted, as integers if all are integers."""
    if declared:
        return list(declared)
    found = set(keys)
    if all(_INTEGER.fullmatch(key) for key in found):
        return sorted(int(key) for key in found)
    return sorted(found)


def normal_label(value: Any) -> str:
    """A label's name in the form in which names are compared, wherever they come from: data, teacher, feedback.

    Unicode NFC, no white space or invisible marks around it; 1, 1.0, "1", " 1.0 " (what pandas makes of integers in a
    column with a gap) and true are one label.
    """
    text = str(int(value) if isinstance(value, bool) else value)
    text = _AROUND.sub("", unicodedata.normalize("NFC", text))
    return text.partition(".")[0] if _INTEGER.fullmatch(text) else text


class LabelNames:
    """The labels of a model or a data set, looked up by a name as someone wrote it."""

    def __init__(self, labels: Iterable[str | int]) -> None:
        """Args: labels: in the order of their classes."""
        self.labels: list[str | int] = list(labels)
        self._exact = {str(label): label for label in self.labels}
        self._normal = _unique((normal_label(label), label) for label in self.labels)
        self._folded = _unique((normal_label(label).casefold(), label) for label in self.labels)

    def find(self, name: Any) -> str | int | None:
        """The label that a name means; None where it means none, or more than one.

        An exact name wins; then its normal form (`normal_label`); then that without letter case.
        """
        key = normal_label(name)
        for names, written in ((self._exact, str(name)), (self._normal, key), (self._folded, key.casefold())):
            label = names.get(written)
            if label is not None:
                return label
        return None

    def near(self, name: Any) -> str | None:
        """The label whose name is most like a given one, for messages; None where none is like it."""
        close = difflib.get_close_matches(normal_label(name), [str(label) for label in self.labels], n=1)
        return close[0] if close else None


def _unique(pairs: Iterable[tuple[str, str | int]]) -> dict[str, str | int]:
    """Key -> label, without the keys that two labels share."""
    grouped: dict[str, list[str | int]] = {}
    for key, label in pairs:
        grouped.setdefault(key, []).append(label)
    return {key: labels[0] for key, labels in grouped.items() if len(labels) == 1}


def _checked(table: Table, row: int, value: Any, column: str, known: set[str] | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        raise LabelError(
            f"{table.place(row)} has no label in column {column!r}; label it, remove it, "
            "or give its file `split: transfer` in prepare.tables"
        )
    key = normal_label(value)
    if known is not None and key not in known:
        raise LabelError(
            f"{table.place(row)}: label {str(value)[:80]!r} is not one of prepare.labels ({', '.join(sorted(known))}); "
            "correct the row or declare the label"
        )
    return key


def _several(
    table: Table, row: int, value: Any, column: str, separator: str | None, known: set[str] | None
) -> tuple[str, ...]:
    """The labels of a list or of a string with separators."""
    if isinstance(value, str) and separator is not None:
        value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, (list, tuple)):
        advice = "give a list" if separator is not None else "give a list, or set prepare.label.separator"
        raise LabelError(f"{table.place(row)}: {str(value)[:60]!r} in {column!r} is no list of labels; {advice}")
    return tuple(sorted({_checked(table, row, item, column, known) for item in value}))


def _flagged(table: Table, row: int, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the columns that hold 1."""
    keys = {name: normal_label(value) for name, value in flags.items()}
    for name, key in keys.items():
        if key not in ("0", "1"):
            raise LabelError(
                f"{table.place(row)}: {str(flags[name])[:60]!r} in the label column {name!r} is neither 0 nor 1; "
                "correct or remove the row"
            )
    return tuple(sorted(normal_label(name) for name, key in keys.items() if key == "1"))


def _ranged(table: Table, row: int, value: Any, label: LabelRanges) -> tuple[str, ...]:
    found = number(table, row, value, label.column)
    holds = (name for name, parts in label.ranges.items() if any(low <= found <= high for low, high in parts))
    return tuple(sorted(normal_label(name) for name in holds))


def _within(table: Table, row: int, value: Any, label: LabelNumber) -> float:
    found = number(table, row, value, label.column)
    if label.range is not None and not label.range[0] <= found <= label.range[1]:
        raise LabelError(
            f"{table.place(row)}: {found:g} in {label.column!r} is outside prepare.label.range {label.range}; "
            "correct or remove the row, or widen the range"
        )
    return found


def number(table: Table, row: int, value: Any, column: str) -> float:
    """A finite number.

    Raises:
        LabelError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise LabelError(
            f"{table.place(row)}: {str(value)[:60]!r} in {column!r} is no number; correct or remove the row"
        )
    return found


def _sign(table: Table, row: int, value: Any, label: LabelSign) -> str | None:
    rating = number(table, row, value, label.column)
    if rating == 0 or abs(rating) < label.unclear_below:
        return None
    return label.positive if rating > 0 else label.negative
