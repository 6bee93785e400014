"""Labels: what rows carry, to class indices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from potstill.config import LabelColumn, LabelSign
from potstill.data.tables import Table
from potstill.errors import LabelError

# Without leading zeros: "01" is a name, not the number 1.
_INTEGER = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")


def read_labels(
    table: Table, rows: Sequence[int], label: LabelColumn | LabelSign, labels: Sequence[str | int] | None
) -> list[str | None]:
    """The labels of some rows in their comparable form (`label_key`); None where a rating is too near to zero to tell.

    Args:
        table: the rows' table.
        rows: indices of the rows that need a label.
        label: where it is.
        labels: the declared set, if there is one.

    Raises:
        MissingColumnError: no such column.
        LabelError: a row has no label, a rating that is no number, or (with declared labels) one outside the set.
    """
    values = table.column(label.column)
    if isinstance(label, LabelSign):
        return [_sign(table, row, values[row], label) for row in rows]
    names = table.class_names.get(label.column)
    if names and not (labels and all(isinstance(item, int) for item in labels)):
        values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    known = {label_key(item) for item in labels} if labels else None
    return [_checked(table, row, values[row], label.column, known) for row in rows]


def label_set(keys: Iterable[str], declared: Sequence[str | int] | None) -> list[str | int]:
    """Labels in the order of their class indices: as declared, else sorted, as integers if all are integers."""
    if declared:
        return list(declared)
    found = set(keys)
    if all(_INTEGER.fullmatch(key) for key in found):
        return sorted(int(key) for key in found)
    return sorted(found)


def label_key(value: Any) -> str:
    """A label's comparable form: 1, 1.0, "1" and " 1.0 " (what pandas makes of integers beside a gap) are one label."""
    text = str(int(value) if isinstance(value, bool) else value).strip()
    return text.partition(".")[0] if _INTEGER.fullmatch(text) else text


def _checked(table: Table, row: int, value: Any, column: str, known: set[str] | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        raise LabelError(
            f"{table.place(row)} has no label in column {column!r}; label it, remove it, "
            "or give its file `split: transfer` in prepare.tables"
        )
    key = label_key(value)
    if known is not None and key not in known:
        raise LabelError(
            f"{table.place(row)}: label {str(value)[:80]!r} is not one of prepare.labels ({', '.join(sorted(known))}); "
            "correct the row or declare the label"
        )
    return key


def _sign(table: Table, row: int, value: Any, label: LabelSign) -> str | None:
    try:
        rating = float(value)
    except (TypeError, ValueError):
        rating = math.nan
    if not math.isfinite(rating):
        raise LabelError(
            f"{table.place(row)}: {str(value)[:60]!r} in {label.column!r} is no number; correct or remove the row"
        )
    if rating == 0 or abs(rating) < label.unclear_below:
        return None
    return label.positive if rating > 0 else label.negative
