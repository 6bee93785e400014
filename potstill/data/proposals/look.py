"""A look at a data set before anything is decided: its files, their columns, and what these hold."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from potstill.data.formats.cells import at_path, is_absent, is_missing_word, is_nested, parsed
from potstill.data.formats.tables import read_tables
from potstill.data.formats.tabular import Table
from potstill.data.splits.split_names import split_column
from potstill.errors import FetchError, FormatError
from potstill.labels.names import normal_label

# What a column's values are. words and tags: lists of texts, the latter of BIO tags or integers; labels: lists of
# names, or objects such as Label Studio's choices; spans: marked places of the text; answers: SQuAD's.
Kind = Literal["text", "integer", "number", "labels", "words", "tags", "spans", "answers", "object", "empty"]
# Values from which a column's kind is told.
_LOOKED_AT = 2000
# Different values of a column that are counted.
_COUNTED = 2000
# A longer list of texts is taken for words.
_MOST_LABELS = 12
_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TAG = re.compile(r"O|[BIESLUM]-\S+")


@dataclass(frozen=True)
class ColumnLook:
    """A column, or what is at a dotted path into one.

    Attributes:
        name: as `prepare.text` and `prepare.label.column` name it.
        kind: what most of its values are.
        rows: rows that have a value.
        missing: rows that have none.
        missing_words: of the values, those that stand for none, such as `nan`.
        values: value -> how often it occurs, most frequent first, in the form in which labels are compared; of lists
            their items; None where there are more than 2,000 different ones.
        class_names: names of its integer classes, from the data's own schema.
        several: rows of `labels` that hold more than one.
        as_text: whether lists and objects are written as text in its cells.
        longest: characters of its longest text.
        mean_length: characters of its texts on average.
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
class TableLook:
    """A file, or a split of a saved data set.

    Attributes:
        table: its rows, with `where`, `format`, `separator`, `compression`, `tool`, `split` (by its name), `undecided`
            and `notes`.
        columns: a look at each of its columns.
        split_column: the column that names the split of each row, if there is one.
    """

    table: Table
    columns: Sequence[ColumnLook]
    split_column: str | None

    @property
    def rows(self) -> int:
        """Number of its rows."""
        return len(self.table)

    def column(self, name: str) -> ColumnLook:
        """The look at a column or a path.

        Raises:
            MissingColumnError: there is none of that name.
        """
        known = next((column for column in self.columns if column.name == name), None)
        return known or _column(name, self.table.column(name), self.table.class_names.get(name, ()))


def look_at(path: Path, separator: str | None = None, *, mixed: bool = False) -> list[TableLook]:
    """Read a file or a folder and say what is in it.

    Args:
        path: a file, a folder of files, or a folder that `datasets` has saved.
        separator: of CSV files; None: it is looked for.
        mixed: whether names that look like splits mean nothing.

    Raises:
        FetchError: there is no such file.
        FormatError, EncodingError, NulByteError, EmptyDataError: it cannot be read.
    """
    if not path.exists():
        raise FetchError(f"{path} does not exist; name a file, or a folder of files, of this machine")
    folder, files = (path.parent, path.name) if path.is_file() else (path, "*")
    tables = read_tables(folder, files, "auto", None, sys.maxsize, separator, mixed=mixed)
    return [look_at_table(table) for table in tables]


def look_at_table(table: Table) -> TableLook:
    """What is in a table; of columns with objects, what is at each path into them."""
    columns = [column for name in table.columns for column in _with_paths(table, name)]
    tags = next((column.name for column in columns if column.kind == "tags"), None)
    if tags is not None:
        columns = [replace(at, kind="words") if _goes_with(table, at, tags) else at for at in columns]
    _refuse_row_as_header(table, columns)
    return TableLook(table, columns, split_column(table))


def _refuse_row_as_header(table: Table, columns: Sequence[ColumnLook]) -> None:
    """Refuse a file without a header: its first row was taken for the names of the columns."""
    if table.separator is None or list(table.columns) == [str(at) for at in range(len(table.columns))]:
        return  # pandas numbers columns without names
    for column in columns:
        repeats = (column.values or {}).get(normal_label(column.name), 0)
        if repeats and len(column.values or {}) * 3 <= column.rows:
            raise FormatError(
                f"{table.where}: its first line looks like a row, not like the names of the columns: {column.name!r} "
                f"is also a value of that column in {repeats:,} rows; add a first line such as text,label, or, if it "
                f"is a name, call that column otherwise"
            )


def _with_paths(table: Table, name: str) -> list[ColumnLook]:
    """A look at a column; of one with objects, at each path into it."""
    column = _column(name, table.columns[name], table.class_names.get(name, ()))
    paths = [path for path in table.names() if path.startswith(f"{name}.")] if column.kind == "object" else []
    return [_column(path, table.column(path), ()) for path in paths] or [column]


def _goes_with(table: Table, column: ColumnLook, tags: str) -> bool:
    """Whether a column has as many items in each row as there are tags: it holds the words, or what is told of them."""
    if column.kind != "labels":
        return False
    pairs = zip(table.column(column.name)[:_LOOKED_AT], table.column(tags), strict=False)
    return all(_length(parsed(words)) == _length(parsed(own)) for words, own in pairs)


def _column(name: str, values: Sequence[Any], class_names: Sequence[str]) -> ColumnLook:
    filled = [value for value in values if not is_absent(value)]
    sample = filled[:: max(1, len(filled) // _LOOKED_AT)]
    nested = [parsed(value) for value in sample]
    as_text = any(isinstance(value, str) and is_nested(item) for value, item in zip(sample, nested, strict=True))
    kind = _kind(nested)
    several = sum(_length(parsed(value)) > 1 for value in filled) if kind == "labels" else 0
    lengths = [len(value) for value in filled if isinstance(value, str)] if kind == "text" else []
    return ColumnLook(
        name,
        kind,
        len(filled),
        len(values) - len(filled),
        sum(map(is_missing_word, filled)),
        _counts(filled, kind),
        tuple(class_names),
        several,
        as_text,
        max(lengths, default=0),
        sum(lengths) / len(lengths) if lengths else 0.0,
    )


def _kind(values: Sequence[Any]) -> Kind:
    """What most values of a column are; a list among them decides, as empty lists and plain names go with it."""
    if not values:
        return "empty"
    nested = [value for value in values if is_nested(value)]
    if len(nested) * 20 >= len(values):
        kinds = Counter(map(_nested_kind, nested))
        kinds.pop("empty", None)
        return kinds.most_common(1)[0][0] if kinds else "labels"
    texts = [str(value).strip() for value in values]
    if all(
        isinstance(value, (int, bool)) or _INTEGER.fullmatch(text) for value, text in zip(values, texts, strict=True)
    ):
        return "integer"
    return "number" if all(_NUMBER.fullmatch(text) for text in texts) else "text"


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
    return "words" if len(items) > _MOST_LABELS else "labels"


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
        if len(counts) > _COUNTED:
            return None
    return dict(counts.most_common())


def _names(value: Any, kind: Kind) -> list[str]:
    """What is counted of a value: a name, or the names in a list."""
    if kind in ("text", "integer", "number"):
        return [normal_label(value)]
    value = parsed(value)
    if isinstance(value, Mapping):
        value = value.get("choices", [name for name, flag in value.items() if flag])
    items = value if isinstance(value, (list, tuple, set)) else [value]
    if kind == "spans":
        items = [_span_type(item) for item in items]
    return [normal_label(item) for item in items if not is_nested(item) and item is not None]


def _span_type(span: Any) -> Any:
    if isinstance(span, Mapping):
        names = (span.get(key) for key in ("label", "labels", "type", "entity", "entity_type", "entity_group"))
        name = next((name for name in names if name is not None), None)
        return at_path(name, ["0"]) if isinstance(name, list) else name
    return span[-1] if isinstance(span, (list, tuple)) and span else None
