"""The labels of rows, from the cells that hold them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.config.base import TaskKind
from potstill.config.prepare_params import (
    LabelColumn,
    LabelColumns,
    LabelNumber,
    LabelOrder,
    LabelRanges,
    LabelSign,
    ValueLabel,
)
from potstill.data.formats.cells import is_absent, is_bracketed, is_missing_word, is_nested, parsed, paths_of
from potstill.data.formats.tabular import Table
from potstill.errors import LabelError
from potstill.labels.names import normal_label

# What `datasets` writes where a class is not known.
_NO_CLASS = -1
# Under which of these an object has its label or labels.
_LABEL_KEYS = ("choices", "labels", "label", "value", "name")
_OBJECT = "is an object, not a label; name what is in it with a dotted path: "
_SPANS = (
    "looks like marked places in the text; for entities set prepare.task to token_classification and prepare.label to "
    "{kind: spans, column: ...}"
)


def read_labels(
    table: Table,
    rows: Sequence[int],
    label: ValueLabel,
    labels: Sequence[str | int] | None,
    task: TaskKind = "single_label",
    *,
    ask: bool = True,
) -> list[Any]:
    """The labels of some rows, each a `Value`; None where there is none, or a rating is too near to zero to tell.

    Args:
        table: the rows' table.
        rows: indices of the rows that need a label.
        label: where it is.
        labels: the declared set, if there is one.
        task: what a column of labels holds: one a row or several.
        ask: whether a row without a label is refused.

    Raises:
        MissingColumnError: no such column.
        LabelError: a row has no label, several where one is asked for, a rating that is no number or is out of range,
            or (with declared labels) one outside the set.
    """
    if isinstance(label, LabelColumns):
        flags = {name: table.column(name) for name in label.columns}
        return [_flagged(table, row, {name: values[row] for name, values in flags.items()}) for row in rows]
    values = table.column(label.column)
    if isinstance(label, LabelColumn):
        read = _Classes(table, label, labels, ask=ask)
        if task == "multi_label":
            mixed = any(is_nested(parsed(values[row])) for row in rows)
            return [read.several(row, values[row], mixed=mixed) for row in rows]
        return [read.single(row, values[row]) for row in rows]
    numbers = {LabelSign: _sign, LabelNumber: _within, LabelRanges: _ranged, LabelOrder: _ordered}[type(label)]
    gone = set() if ask else {row for row in rows if is_absent(values[row]) or is_missing_word(values[row])}
    return [None if row in gone else numbers(table, row, values[row], label) for row in rows]  # type: ignore[operator]


class _Classes:
    """Reads the cells of a column of labels."""

    def __init__(self, table: Table, label: LabelColumn, labels: Sequence[str | int] | None, *, ask: bool) -> None:
        self._table, self._column, self._separator, self._ask = table, label.column, label.separator, ask
        self._known = {normal_label(item) for item in labels} if labels else None
        self._missing = {normal_label(item) for item in label.missing}
        as_numbers = bool(labels) and all(isinstance(item, int) for item in labels or ())
        self._names = [] if as_numbers else table.class_names.get(label.column, [])
        self._has_names = label.column in table.class_names
        self._plain: dict[str, tuple[str, ...]] = {}  # cells of one name, which come again and again

    def single(self, row: int, value: Any) -> str | None:
        """The one label of a row; None where it has none and is not asked for."""
        keys = self._keys(row, value)
        if keys is None or len(keys) == 1:
            return keys[0] if keys else None
        if not keys:
            self._without(row, value)
            return None
        raise LabelError(
            f"{self._table.place(row)}: {_shown(value)} in {self._column!r} looks like several labels; to read them, "
            f"set prepare.task to multi_label and prepare.label to {{kind: column, column: {self._column}}}"
        )

    def several(self, row: int, value: Any, *, mixed: bool) -> tuple[str, ...] | None:
        """The labels that hold for a row, sorted.

        Args:
            row: index of the row.
            value: a list, a text of one, or a text that the separator takes apart.
            mixed: whether other cells are lists: then a text that is none is a single label.
        """
        if isinstance(value, str) and self._separator is not None and not is_nested(parsed(value)):
            parts = [part for part in value.split(self._separator) if part.strip()]
            return tuple(sorted({key for part in parts for key in self._keys(row, part) or ()}))
        if is_nested(parsed(value)) or is_absent(value) or mixed:
            keys = self._keys(row, value)
            return None if keys is None else tuple(sorted(set(keys)))
        advice = "give a list" if self._separator is not None else "give a list, or set prepare.label.separator"
        raise LabelError(
            f"{self._table.place(row)}: {_shown(value)} in {self._column!r} is no list of labels; {advice}"
        )

    def _refuse_flags(self, row: int, value: Any, keys: Sequence[str]) -> None:
        """Refuse a list of zeros and ones, which says for each label whether it holds."""
        if len(set(keys)) < len(keys) and set(keys) <= {"0", "1"}:
            raise LabelError(
                f"{self._table.place(row)}: {_shown(value)} in {self._column!r} looks like a flag for each label; "
                "write lists of names, or a column of 0 and 1 for each label (prepare.label of kind columns)"
            )

    def _keys(self, row: int, value: Any) -> tuple[str, ...] | None:
        """The names in a cell; None where it stands for no label."""
        if isinstance(value, str) and value in self._plain:
            return self._plain[value]
        if self._has_names and isinstance(value, int) and not isinstance(value, bool):
            if value == _NO_CLASS and normal_label(value) not in (self._known or ()):
                return None
            value = self._name(row, value)
        if isinstance(value, bytes):
            raise LabelError(f"{self._table.place(row)}: column {self._column!r} holds bytes; store it as strings")
        if is_absent(value):
            self._without(row, None)
            return None
        key = "" if is_nested(value) else normal_label(value)
        if self._known is not None and key in self._known:
            if isinstance(value, str):
                self._plain[value] = (key,)
            return (key,)
        if key in self._missing:
            return None
        value = parsed(value)
        if is_nested(value):
            keys = tuple(key for item in self._items(row, value) for key in self._keys(row, item) or ())
            self._refuse_flags(row, value, keys)
            return keys
        if is_missing_word(value):
            self._without(row, value)
            return None
        if is_bracketed(value):
            raise LabelError(
                f"{self._table.place(row)}: {_shown(value)} in {self._column!r} looks like a list, but is neither JSON "
                "nor Python; correct it, or name it in prepare.labels if it is a name"
            )
        self._check_known(row, value, key)
        if isinstance(value, str):
            self._plain[value] = (key,)
        return (key,)

    def _items(self, row: int, value: Any) -> list[Any]:
        """The single names in a list or an object."""
        try:
            return labels_in(value)
        except ValueError as error:
            paths = ", ".join(dict.fromkeys(paths_of(value, self._column)))
            raise LabelError(
                f"{self._table.place(row)}: {_shown(value)} in {self._column!r} {str(error) or _OBJECT + paths[:300]}"
            ) from None

    def _name(self, row: int, value: int) -> str | int:
        """The name that the data's schema gives to a class."""
        if not self._names:
            return value
        if not 0 <= value < len(self._names):
            raise LabelError(
                f"{self._table.place(row)}: the class {value} in {self._column!r} is beyond the {len(self._names)} "
                f"names of its schema ({', '.join(self._names[:8])}); correct the row"
            )
        return self._names[value]

    def _without(self, row: int, value: Any) -> None:
        """Refuse a row without a label, where it is asked for."""
        if not self._ask:
            return
        shown = f" ({_shown(value)}; if that is a name, list it in prepare.labels)" if is_missing_word(value) else ""
        raise LabelError(
            f"{self._table.place(row)} has no label in column {self._column!r}{shown}; label it, remove it, give its "
            "file `split: transfer` in prepare.tables, or set prepare.unlabelled to transfer or leave_out"
        )

    def _check_known(self, row: int, value: Any, key: str) -> None:
        if self._known is None or key in self._known:
            return
        near = difflib.get_close_matches(key, self._known, n=1) or [
            name for name in self._known if name.casefold() == key.casefold()
        ]
        guess = f"did you mean {near[0]!r}? Correct" if near else "correct"
        raise LabelError(
            f"{self._table.place(row)}: label {_shown(value)} is not one of prepare.labels "
            f"({', '.join(sorted(self._known))}); {guess} the row or declare the label"
        )


def labels_in(value: Any) -> list[Any]:
    """The names in a list or an object of a cell: Label Studio's choices, spaCy's cats, `{"label": "a"}`, plain lists.

    Raises:
        ValueError: it holds something else; without a message where it is an object that says nothing of labels.
    """
    if isinstance(value, Mapping):
        return _labels_of_object(value)
    items: list[Any] = []
    for item in value:
        if isinstance(item, (list, tuple)) and len(item) == 3 and all(isinstance(end, int) for end in item[:2]):
            raise ValueError(_SPANS)
        items += labels_in(item) if is_nested(item) else [item]
    return items


def _labels_of_object(value: Mapping[str, Any]) -> list[Any]:
    if {"start", "end"} <= set(value) or {"start_offset", "end_offset"} <= set(value):
        raise ValueError(_SPANS)
    if (
        value
        and all(flag in (0, 1) for flag in value.values() if not is_nested(flag))
        and not any(map(is_nested, value.values()))
    ):
        return [name for name, flag in value.items() if flag]
    name = next((name for name in _LABEL_KEYS if name in value), None)
    if name is None:
        raise ValueError
    inner = value[name]
    return labels_in(inner) if is_nested(inner) else [inner]


def _shown(value: Any) -> str:
    return repr(value if isinstance(value, str) else str(value))[:80]


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


def _ordered(table: Table, row: int, value: Any, label: LabelOrder) -> float:
    return number(table, row, value, label.column)


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
