"""Summarizes an unknown data set: its files, their columns, and the kinds of values in these."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from potstill.data.formats.cells import is_absent, is_missing_word, is_nested, parse_nested, value_at_path
from potstill.data.formats.tables import read_tables
from potstill.data.formats.tabular import Table
from potstill.data.formats.tagged import TYPE_KEYS
from potstill.data.splits.split_names import split_column
from potstill.errors import FetchError, FormatError
from potstill.labels.names import normal_label

# The kinds of a column's values. words: lists of texts; tags: lists of BIO tags or integers; labels: lists of names, or
# objects such as Label Studio's choices; spans: marked spans of the text; answers: SQuAD's.
Kind = Literal["text", "integer", "number", "labels", "words", "tags", "spans", "answers", "object", "empty"]
# Values that are inspected to determine a column's kind.
_SAMPLE_VALUES = 2000
# The most different values of a column that are counted.
_MAX_COUNTED = 2000
# A longer list of texts is taken for words.
_MAX_LABELS = 12
_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TAG = re.compile(r"O|[BIESLUM]-\S+")


@dataclass(frozen=True)
class ColumnSummary:
    """A summary of a column, or of a dotted path into one.

    Attributes:
        name: as `prepare.text` and `prepare.label.column` name it.
        kind: the kind of most of its values.
        rows: number of rows with a value.
        missing: number of rows without a value.
        missing_words: number of values that are a word for a missing one, such as `nan`.
        values: value -> number of occurrences, the most frequent first. Values have the normal form of labels, and
            lists count as their items. None: there are more than 2,000 different values.
        class_names: names of its integer classes, from the data's schema.
        several: number of rows of kind `labels` with more than one label.
        as_text: whether lists and objects are written as text in its cells.
        longest: characters of its longest text.
        mean_length: mean number of characters of its texts.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    missing_words: int
    values: Mapping[str, int] | None
    class_names: Sequence[str] = ()
    several: int = 0
    as_text: bool = False
    longest: int = 0
    mean_length: float = 0.0


@dataclass(frozen=True)
class TableSummary:
    """A summary of a file, or of a split of a saved data set.

    Attributes:
        table: its rows.
        columns: a summary of each of its columns.
        split_column: the column that names the split of each row, if there is one.
    """

    table: Table
    columns: Sequence[ColumnSummary]
    split_column: str | None

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return len(self.table)

    def column(self, name: str) -> ColumnSummary:
        """Summarize a column or a path.

        Raises:
            MissingColumnError: there is no such column.
        """
        known = next((column for column in self.columns if column.name == name), None)
        return known or _summarize(name, self.table.column(name), self.table.class_names.get(name, ()))


def summarize_files(path: Path, separator: str | None = None, *, ignore_splits: bool = False) -> list[TableSummary]:
    """Read a file or a folder and summarize its tables.

    Args:
        path: a file, a folder of files, or a folder that `datasets` has saved.
        separator: of CSV files; None: it is detected.
        ignore_splits: whether to ignore split names in the names of files.

    Raises:
        FetchError: the path does not exist.
        FormatError, EncodingError, NulByteError, EmptyDataError: it cannot be read.
    """
    if not path.exists():
        raise FetchError(f"{path} does not exist; name a file, or a folder of files, of this machine")
    folder, files = (path.parent, path.name) if path.is_file() else (path, "*")
    tables = read_tables(folder, files, "auto", None, sys.maxsize, separator, ignore_splits=ignore_splits)
    return [summarize_table(table) for table in tables]


def summarize_table(table: Table) -> TableSummary:
    """Summarize a table. A column of objects is summarized by the paths into it."""
    columns = [column for name in table.columns for column in _with_paths(table, name)]
    tags = next((column.name for column in columns if column.kind == "tags"), None)
    if tags is not None:
        columns = [
            replace(column, kind="words") if _matches_tags(table, column, tags) else column for column in columns
        ]
    _refuse_row_as_header(table, columns)
    return TableSummary(table, columns, split_column(table))


def _refuse_row_as_header(table: Table, columns: Sequence[ColumnSummary]) -> None:
    """Refuse a file without a header: its first row was taken for the names of the columns."""
    if table.separator is None or list(table.columns) == [str(index) for index in range(len(table.columns))]:
        return  # pandas numbers columns without names.
    for column in columns:
        repeats = (column.values or {}).get(normal_label(column.name), 0)
        if repeats and len(column.values or {}) * 3 <= column.rows:
            raise FormatError(
                f"{table.location}: its first line looks like a row, not like the names of the columns: "
                f"{column.name!r} is also a value of that column in {repeats:,} rows; add a first line such "
                "as text,label, or, if it is a name, call that column otherwise"
            )


def _with_paths(table: Table, name: str) -> list[ColumnSummary]:
    """Summarize a column, or each path into a column of objects."""
    column = _summarize(name, table.columns[name], table.class_names.get(name, ()))
    paths = [path for path in table.names() if path.startswith(f"{name}.")] if column.kind == "object" else []
    return [_summarize(path, table.column(path), ()) for path in paths] or [column]


def _matches_tags(table: Table, column: ColumnSummary, tags: str) -> bool:
    """Whether a column has as many items in each row as there are tags: words, or another annotation of them."""
    if column.kind != "labels":
        return False
    pairs = zip(table.column(column.name)[:_SAMPLE_VALUES], table.column(tags), strict=False)
    return all(_length(parse_nested(words)) == _length(parse_nested(row_tags)) for words, row_tags in pairs)


def _summarize(name: str, values: Sequence[Any], class_names: Sequence[str]) -> ColumnSummary:
    filled = [value for value in values if not is_absent(value)]
    sample = filled[:: max(1, len(filled) // _SAMPLE_VALUES)]
    nested = [parse_nested(value) for value in sample]
    as_text = any(isinstance(value, str) and is_nested(item) for value, item in zip(sample, nested, strict=True))
    kind = _kind(nested)
    several = sum(_length(parse_nested(value)) > 1 for value in filled) if kind == "labels" else 0
    lengths = [len(value) for value in filled if isinstance(value, str)] if kind == "text" else []
    return ColumnSummary(
        name,
        kind,
        rows=len(filled),
        missing=len(values) - len(filled),
        missing_words=sum(map(is_missing_word, filled)),
        values=_counts(filled, kind),
        class_names=tuple(class_names),
        several=several,
        as_text=as_text,
        longest=max(lengths, default=0),
        mean_length=sum(lengths) / len(lengths) if lengths else 0.0,
    )


def _kind(values: Sequence[Any]) -> Kind:
    """Determine the kind of a column's values. A share of lists decides, since empty cells and names may join them."""
    if not values:
        return "empty"
    nested = [value for value in values if is_nested(value)]
    if len(nested) * 20 >= len(values):
        kinds = Counter(map(_nested_kind, nested))
        kinds.pop("empty", None)
        return kinds.most_common(1)[0][0] if kinds else "labels"
    texts = [str(value).strip() for value in values]
    if all(isinstance(value, int) or is_integer(text) for value, text in zip(values, texts, strict=True)):
        return "integer"
    return "number" if all(_NUMBER.fullmatch(text) for text in texts) else "text"


def is_integer(text: str) -> bool:
    """Whether a text is an integer."""
    return _INTEGER.fullmatch(text) is not None


def _nested_kind(value: Any) -> Kind:
    if isinstance(value, Mapping):
        if "answer_start" in value:
            return "answers"
        return "labels" if set(value) & {"choices"} or _is_flags(value) else "object"
    items = list(value)
    if not items:
        return "empty"
    if all(isinstance(item, Mapping) for item in items):
        if "answer_start" in items[0]:
            return "answers"
        return "spans" if any(set(item) & {"start", "start_offset", "begin"} for item in items) else "object"
    if all(isinstance(item, (list, tuple)) and len(item) == 3 for item in items):
        return "spans"
    if all(isinstance(item, str) and _TAG.fullmatch(item) for item in items):
        return "tags"
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return "tags"
    return "words" if len(items) > _MAX_LABELS else "labels"


def _is_flags(value: Mapping[str, Any]) -> bool:
    return len(value) > 1 and all(isinstance(flag, (bool, int, float)) and flag in (0, 1) for flag in value.values())


def _length(value: Any) -> int:
    if isinstance(value, Mapping):
        value = value.get("choices", [name for name, flag in value.items() if flag])
    return len(value) if isinstance(value, (list, tuple, set)) else 1


def _counts(values: Sequence[Any], kind: Kind) -> dict[str, int] | None:
    counts: Counter[str] = Counter()
    for value in values:
        counts.update(_names(value, kind))
        if len(counts) > _MAX_COUNTED:
            return None
    return dict(counts.most_common())


def _names(value: Any, kind: Kind) -> list[str]:
    """List the names that count for a value: the value itself, or the names in a list."""
    if kind in ("text", "integer", "number"):
        return [normal_label(value)]
    value = parse_nested(value)
    if isinstance(value, Mapping):
        value = value.get("choices", [name for name, flag in value.items() if flag])
    items = value if isinstance(value, (list, tuple, set)) else [value]
    if kind == "spans":
        items = [_span_type(item) for item in items]
    return [normal_label(item) for item in items if not is_nested(item) and item is not None]


def _span_type(span: Any) -> Any:
    if isinstance(span, Mapping):
        names = (span.get(key) for key in TYPE_KEYS)
        name = next((name for name in names if name is not None), None)
        return value_at_path(name, ["0"]) if isinstance(name, list) else name
    return span[-1] if isinstance(span, (list, tuple)) and span else None
