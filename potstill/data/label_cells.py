"""Reads the labels of rows from their cells."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.config.prepare_params import (
    LabelColumn,
    LabelColumns,
    LabelNumber,
    LabelOrder,
    LabelRanges,
    LabelSign,
    ValueLabel,
)
from potstill.data.cleaning import without_surrogates
from potstill.data.formats.cells import is_absent, is_bracketed, is_missing_word, is_nested, parse_nested, paths_of
from potstill.data.formats.tabular import Table
from potstill.errors import LabelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import Value, normal_label

# The limit of fp32, which is the type of numbers in data/prepared.
FINITE = 3.4e38
# The class that `datasets` writes for an unknown one.
_NO_CLASS = -1
# Keys under which an object may hold its label or labels.
_LABEL_KEYS = ("choices", "labels", "label", "value", "name")
_OBJECT = "is an object, not a label; name what is in it with a dotted path: "
_SPANS = (
    "looks like marked spans of the text; for entities set prepare.task to token_classification and prepare.label to "
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
    """Read the labels of some rows, each a `Value`. None: there is no label, or a rating is too close to zero.

    Args:
        table: the rows' table.
        rows: indices of the rows that need a label.
        label: where the labels are.
        labels: the declared set, if there is one.
        task: says whether a cell holds one label or several.
        ask: whether to refuse a row without a label.

    Raises:
        MissingColumnError: no such column.
        LabelError: a row has no label, several labels for a task of one, a rating that is no number or is out of range,
            or a label outside the declared set.
    """
    if isinstance(label, LabelColumns):
        flags = {name: table.column(name) for name in label.columns}
        return [_flagged(table, row, {name: values[row] for name, values in flags.items()}) for row in rows]
    values = table.column(label.column)
    if isinstance(label, LabelColumn):
        reader = _LabelReader(table, label, labels, ask=ask)
        if KINDS[task].form == "labels":
            has_lists = any(is_nested(parse_nested(values[row])) for row in rows)
            return [reader.several(row, values[row], has_lists=has_lists) for row in rows]
        return [reader.single(row, values[row]) for row in rows]
    missing = set() if ask else {row for row in rows if is_absent(values[row]) or is_missing_word(values[row])}
    return [None if row in missing else _label_of_number(table, row, values[row], label) for row in rows]


class _LabelReader:
    """Reads the cells of a column of labels."""

    def __init__(self, table: Table, label: LabelColumn, labels: Sequence[str | int] | None, *, ask: bool) -> None:
        self._table = table
        self._column = label.column
        self._separator = label.separator
        self._ask = ask
        self._known = {normal_label(item) for item in labels} if labels else None
        self._missing = {normal_label(item) for item in label.missing}
        as_numbers = bool(labels) and all(isinstance(item, int) for item in labels or ())
        self._names = [] if as_numbers else table.class_names.get(label.column, [])
        self._has_names = label.column in table.class_names
        self._keys_by_text: dict[str, tuple[str, ...]] = {}  # a cache: the same few names fill a whole column

    def single(self, row: int, value: Any) -> str | None:
        """Read the only label of a row. None: it has none, and `ask` is False."""
        keys = self._keys(row, value)
        if keys is None or len(keys) == 1:
            return keys[0] if keys else None
        if not keys:
            self._refuse_missing(row, value)
            return None
        raise LabelError(
            f"{self._cell(row, value)} looks like several labels; to read them, "
            f"set prepare.task to multi_label and prepare.label to {{kind: column, column: {self._column}}}"
        )

    def several(self, row: int, value: Any, *, has_lists: bool) -> tuple[str, ...] | None:
        """Read the labels that apply to a row, sorted.

        Args:
            row: index of the row.
            value: a list, a list written as text, or a text that the separator divides.
            has_lists: whether other cells are lists. Then a text that is no list is a single label.
        """
        if isinstance(value, str) and self._separator is not None and not is_nested(parse_nested(value)):
            parts = [part for part in value.split(self._separator) if part.strip()]
            return tuple(sorted({key for part in parts for key in self._keys(row, part) or ()}))
        if is_nested(parse_nested(value)) or is_absent(value) or has_lists:
            keys = self._keys(row, value)
            return None if keys is None else tuple(sorted(set(keys)))
        advice = "give a list" if self._separator is not None else "give a list, or set prepare.label.separator"
        raise LabelError(f"{self._cell(row, value)} is no list of labels; {advice}")

    def _refuse_flags(self, row: int, value: Any, keys: Sequence[str]) -> None:
        """Refuse a list of zeros and ones, a flag for each label."""
        if len(set(keys)) < len(keys) and set(keys) <= {"0", "1"}:
            raise LabelError(
                f"{self._cell(row, value)} looks like a flag for each label; "
                "write lists of names, or a column of 0 and 1 for each label (prepare.label of kind columns)"
            )

    def _keys(self, row: int, value: Any) -> tuple[str, ...] | None:
        """Read the names in a cell. None: the cell stands for no label."""
        if isinstance(value, str) and value in self._keys_by_text:
            return self._keys_by_text[value]
        if isinstance(value, str):
            value = without_surrogates(value)
        if self._has_names and isinstance(value, int) and not isinstance(value, bool):
            if value == _NO_CLASS and normal_label(value) not in (self._known or ()):
                return None
            value = self._class_name(row, value)
        if isinstance(value, bytes):
            raise LabelError(
                f"{self._table.row_location(row)}: column {self._column!r} holds bytes; store it as strings"
            )
        if is_absent(value):
            self._refuse_missing(row, None)
            return None
        key = "" if is_nested(value) else normal_label(value)
        if self._known is not None and key in self._known:
            if isinstance(value, str):
                self._keys_by_text[value] = (key,)
            return (key,)
        if key in self._missing:
            return None
        value = parse_nested(value)
        if is_nested(value):
            keys = tuple(key for item in self._items(row, value) for key in self._keys(row, item) or ())
            self._refuse_flags(row, value, keys)
            return keys
        if is_missing_word(value):
            self._refuse_missing(row, value)
            return None
        if is_bracketed(value):
            raise LabelError(
                f"{self._cell(row, value)} looks like a list, but is neither JSON "
                "nor Python; correct it, or name it in prepare.labels if it is a name"
            )
        self._check_known(row, value, key)
        if isinstance(value, str):
            self._keys_by_text[value] = (key,)
        return (key,)

    def _items(self, row: int, value: Any) -> list[Any]:
        """List the names in a list or an object."""
        try:
            return labels_in(value)
        except ValueError as error:
            paths = ", ".join(dict.fromkeys(paths_of(value, self._column)))
            raise LabelError(f"{self._cell(row, value)} {str(error) or _OBJECT + paths[:300]}") from None

    def _cell(self, row: int, value: Any) -> str:
        """Name a cell in a message."""
        return f"{self._table.row_location(row)}: {_shown(value)} in {self._column!r}"

    def _class_name(self, row: int, value: int) -> str | int:
        """Look up the name that the data's schema gives to a class."""
        if not self._names:
            return value
        if not 0 <= value < len(self._names):
            raise LabelError(
                f"{self._table.row_location(row)}: the class {value} in {self._column!r} is beyond the "
                f"{len(self._names)} names of its schema ({', '.join(self._names[:8])}); correct the row"
            )
        return self._names[value]

    def _refuse_missing(self, row: int, value: Any) -> None:
        """Refuse a row without a label, if `ask` is True."""
        if not self._ask:
            return
        shown = f" ({_shown(value)}; if that is a name, list it in prepare.labels)" if is_missing_word(value) else ""
        raise LabelError(
            f"{self._table.row_location(row)} has no label in column {self._column!r}{shown}; label it, remove it, "
            "give its file `split: transfer` in prepare.tables, or set prepare.unlabelled to transfer or leave_out"
        )

    def _check_known(self, row: int, value: Any, key: str) -> None:
        if self._known is None:
            return
        near = difflib.get_close_matches(key, self._known, n=1) or [
            name for name in self._known if name.casefold() == key.casefold()
        ]
        guess = f"did you mean {near[0]!r}? Correct" if near else "correct"
        raise LabelError(
            f"{self._table.row_location(row)}: label {_shown(value)} is not one of prepare.labels "
            f"({', '.join(sorted(self._known))}); {guess} the row or declare the label"
        )


def labels_in(value: Any) -> list[Any]:
    """List the names in a cell's list or object: Label Studio's choices, spaCy's cats, `{"label": "a"}`, plain lists.

    Raises:
        ValueError: it holds something else. An object without any label gives an error without a message.
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
    key = next((key for key in _LABEL_KEYS if key in value), None)
    # The label of `{"label": 1}` is 1; it is no flag of a label "label".
    is_label = key is not None and len(value) == 1
    if value and not is_label and all(not is_nested(flag) and flag in (0, 1) for flag in value.values()):
        return [name for name, flag in value.items() if flag]
    if key is None:
        raise ValueError
    inner = value[key]
    return labels_in(inner) if is_nested(inner) else [inner]


def _shown(value: Any) -> str:
    return repr(value if isinstance(value, str) else str(value))[:80]


def _flagged(table: Table, row: int, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """List the names of the columns that hold 1."""
    keys = {name: normal_label(value) for name, value in flags.items()}
    for name, key in keys.items():
        if key not in ("0", "1"):
            raise LabelError(
                f"{table.row_location(row)}: {str(flags[name])[:60]!r} in the label column {name!r} is neither 0 nor "
                "1; correct or remove the row"
            )
    return tuple(sorted(normal_label(name) for name, key in keys.items() if key == "1"))


def _label_of_number(
    table: Table, row: int, value: Any, label: LabelSign | LabelNumber | LabelRanges | LabelOrder
) -> Value | None:
    """Read the label that a number stands for, or the number itself."""
    number = finite_number(table, row, value, label.column)
    if isinstance(label, LabelSign):
        if number == 0 or abs(number) < label.unclear_below:
            return None
        return normal_label(label.positive if number > 0 else label.negative)
    if isinstance(label, LabelRanges):
        names = (name for name, ranges in label.ranges.items() if any(low <= number <= high for low, high in ranges))
        return tuple(sorted(map(normal_label, names)))
    if isinstance(label, LabelNumber) and label.range is not None and not label.range[0] <= number <= label.range[1]:
        raise LabelError(
            f"{table.row_location(row)}: {number:g} in {label.column!r} is outside prepare.label.range {label.range}; "
            "correct or remove the row, or widen the range"
        )
    return number


def finite_number(table: Table, row: int, value: Any, column: str) -> float:
    """Read a number that fp32 can hold.

    Raises:
        LabelError: the value is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= FINITE:
        raise LabelError(
            f"{table.row_location(row)}: {str(value)[:60]!r} in {column!r} is no number, or one beyond {FINITE:g} "
            "(fp32); correct or remove the row"
        )
    return number
