"""From tables to rows: texts, labels and the splits that the data gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from potstill.config.base import OF_PLACES
from potstill.config.prepare_params import LabelOrder, LabelSign, LabelWords, MarkLabel, Prepare
from potstill.config.prepare_params import Table as TableParams
from potstill.data.annotated import annotated_rows
from potstill.data.cleaning import clean
from potstill.data.formats.cells import is_absent, is_missing_text
from potstill.data.formats.columnar import is_saved
from potstill.data.formats.tables import matching_files, read_tables
from potstill.data.formats.tabular import Table
from potstill.data.label_cells import read_labels
from potstill.data.pairing import order_label, partners
from potstill.data.rows import Row
from potstill.data.splits.split_names import AUTO, given_splits, split_column, splits_of_files
from potstill.errors import LabelError, MissingColumnError

# Rows whose labels tell nothing: a number too near to zero, or no label at all.
_UNCLEAR, _UNLABELLED = "unclear", "unlabelled"


@dataclass
class _Read:
    """Rows of a table, notes on the reading, and how many rows were left out for what."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def read_rows(raw: Path, params: Prepare) -> tuple[list[Row], dict[str, Any]]:
    """All rows with a text, in the splits that the data gives, and what was read (part of report.json).

    Args:
        raw: what `ingest` brought.
        params: the section.

    Raises:
        PotstillError: a file, column, label or split does not allow it; codes 20 to 30.
    """
    splits = _splits_by_file(raw, params.tables)
    tables = (
        (replace(table, split=splits.get(table.where, table.split)), wanted)
        for wanted in params.tables
        for table in _tables(raw, wanted, params)
    )
    return rows_of(tables, params)


def rows_of(tables: Iterable[tuple[Table, TableParams]], params: Prepare) -> tuple[list[Row], dict[str, Any]]:
    """All rows of tables that have been read, as `read_rows` gives them.

    Args:
        tables: each with the entry of `prepare.tables` that it belongs to.
        params: the section.

    Raises:
        PotstillError: a column, label or split does not allow it.
    """
    rows: list[Row] = []
    files: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for table, wanted in tables:
        read = _read(table.with_constants(wanted.constants), wanted, params)
        rows += read.rows
        counts += read.counts
        files.append({"file": table.where, "rows": len(table), "notes": [*table.notes, *read.notes]})
    removed = {"empty": counts["empty"]}
    if params.unlabelled == "leave_out":
        removed["without a label"] = counts[_UNLABELLED]
    report = {
        "tables": files,
        "read": sum(file["rows"] for file in files),
        "unclear": counts[_UNCLEAR],
        "unlabelled": counts[_UNLABELLED],
        "removed": removed,
    }
    return rows, report


def _tables(raw: Path, wanted: TableParams, params: Prepare) -> Any:
    return read_tables(
        raw / wanted.source,
        wanted.files,
        wanted.format,
        wanted.columns,
        params.max_cell_characters,
        wanted.separator,
        mixed=not _takes_given_splits(wanted),
    )


def _takes_given_splits(wanted: TableParams) -> bool:
    return wanted.split == AUTO and wanted.split_column is None


def _splits_by_file(raw: Path, tables: Sequence[TableParams]) -> dict[str, str]:
    """Path -> split of the files whose names look like splits, over all tables that do not say otherwise."""
    files: list[Path] = []
    for wanted in filter(_takes_given_splits, tables):
        folder = raw / wanted.source
        if wanted.format != "saved" and not (wanted.format == "auto" and is_saved(folder)):
            files += matching_files(folder, wanted.files, wanted.format)
    unique = [path.relative_to(raw) for path in dict.fromkeys(files)]
    return {(raw / path).as_posix(): split for path, split in splits_of_files(unique, raw.as_posix()).items()}


def _read(table: Table, wanted: TableParams, params: Prepare) -> _Read:
    splits = given_splits(table, wanted.split, wanted.split_column)
    without = _undecided(table, splits, params)
    names = wanted.text or params.text
    first, second = (names, None) if isinstance(names, str) else names
    read = (_annotated if params.task in OF_PLACES else _labelled)(table, splits, without, params, first, second)
    column = split_column(table) if _takes_given_splits(wanted) else None
    if column is not None:
        read.notes.append(f"column {column!r} gives the splits")
    elif table.split is not None and _takes_given_splits(wanted):
        read.notes.append(f"its name gives the split: {splits[0]}")
    filled = [row for row in read.rows if row.text and row.text_pair != ""]
    read.counts["empty"] += len(read.rows) - len(filled)
    if isinstance(params.label, LabelOrder):
        filled = _paired(filled, params.label, params.split.seed)
    return _settled(read, filled, params)


def _settled(read: _Read, rows: Sequence[Row], params: Prepare) -> _Read:
    """The rows with those that have no label where params want them."""
    read.counts.update(row.split for row in rows if row.split in (_UNCLEAR, _UNLABELLED))
    unlabelled = read.counts[_UNLABELLED]
    leave_out = params.unlabelled == "leave_out"
    if unlabelled:
        done = "left out" if leave_out else "taken for transfer"
        read.notes.append(f"without a label and {done}: {unlabelled:,} of {len(rows):,} rows")
    read.rows = [row for row in rows if not (leave_out and row.split == _UNLABELLED)]
    for row in read.rows:
        row.split = "transfer" if row.split in (_UNCLEAR, _UNLABELLED) else row.split
    return read


def _undecided(table: Table, splits: Sequence[str], params: Prepare) -> set[int]:
    """Rows that need a label and to which an annotation tool gives no valid one.

    Raises:
        LabelError: there are some, and params do not say what becomes of them.
    """
    if getattr(params.label, "column", None) == "answer":  # the tool's verdict is the label
        return set()
    rows = [row for row in table.undecided if splits[row] != "transfer"]
    if rows and params.unlabelled == "ask":
        reasons = Counter(table.undecided[row] for row in rows)
        verdict = "; or name 'answer' as the label, if that is to be learnt" if table.tool == "Prodigy" else ""
        told = ", ".join(f"{count:,} with {reason!r}" for reason, count in reasons.most_common())
        raise LabelError(
            f"{table.place(rows[0])} and others have no valid label in {table.tool}'s export ({told}); set "
            f"prepare.unlabelled to leave_out, or to transfer to learn from their texts without a label{verdict}"
        )
    return set(rows)


def _labelled(
    table: Table,
    splits: list[str],
    without: Collection[int],
    params: Prepare,
    first: str,
    second: str | None,
) -> _Read:
    """Rows with a label each."""
    assert not isinstance(params.label, MarkLabel)
    notes: list[str] = []
    texts = _texts(table, first, notes)
    pairs: Sequence[str | None] = [None] * len(table) if second is None else _texts(table, second, notes)
    labels: list[Any] = [None] * len(table)
    needed = [row for row, split in enumerate(splits) if split != "transfer" and texts[row] and row not in without]
    if needed:
        _require_labels(table, params)
        ask = params.unlabelled == "ask"
        values = read_labels(table, needed, params.label, params.labels, params.task, ask=ask)
        for row, label in zip(needed, values, strict=True):
            labels[row] = label
    nothing = _UNCLEAR if isinstance(params.label, LabelSign | LabelOrder) else _UNLABELLED
    without = {*without, *(row for row in needed if labels[row] is None)}
    splits = [nothing if row in without else split for row, split in enumerate(splits)]
    return _Read([Row(*row) for row in zip(texts, pairs, labels, splits, strict=True)], notes)


def _require_labels(table: Table, params: Prepare) -> None:
    """Refuse a file without the column of labels, with what to do if nobody has labelled it."""
    try:
        for column in [params.label.column] if hasattr(params.label, "column") else []:
            table.column(column)
    except MissingColumnError as error:
        raise MissingColumnError(
            f"{error}; if nobody has labelled its rows, set `split: transfer` for this file in prepare.tables"
        ) from None


def _texts(table: Table, column: str, notes: list[str]) -> list[str]:
    """Cleaned texts of a column, empty where a cell has no value or a word that stands for none."""
    values = table.texts(column)
    words = sum(map(is_missing_text, values))
    if words:
        notes.append(f"nan, None or null alone in {column!r}, which is no text: {words:,} of {len(values):,} rows")
    return ["" if is_absent(value) or is_missing_text(value) else clean(value) for value in values]


def _annotated(
    table: Table,
    splits: list[str],
    without: Collection[int],
    params: Prepare,
    first: str,
    second: str | None,
) -> _Read:
    """Rows whose labels are places in their text, which are read together with it."""
    assert isinstance(params.label, MarkLabel)
    if params.unlabelled != "ask" and not isinstance(params.label, LabelWords):
        marks = table.column(params.label.column)
        without = {*without, *(row for row, mark in enumerate(marks) if is_absent(mark) and splits[row] != "transfer")}
    marked = [split != "transfer" and row not in without for row, split in enumerate(splits)]
    found, notes = annotated_rows(table, first, second, params.label, marked)
    splits = [_UNLABELLED if row in without else split for row, split in enumerate(splits)]
    rows = [
        Row(row.text, row.text_pair, row.label, split, together=second is not None)
        for row, split in zip(found, splits, strict=True)
    ]
    return _Read(rows, notes)


def _paired(rows: Sequence[Row], label: LabelOrder, seed: int) -> list[Row]:
    """Rows of single texts in twos, split by split; those too near to tell, and unlabelled ones, become unclear."""
    pairs: list[Row] = []
    for split in dict.fromkeys(row.split for row in rows):
        group = [row for row in rows if row.split == split]
        for one, other in partners([row.key for row in group], seed):
            first, second = group[one], group[other]
            answer = order_label(first.label, second.label, label)  # type: ignore[arg-type]
            where = split if answer is not None or split == "transfer" else _UNCLEAR
            pairs.append(Row(first.text, second.text, answer, where))
    return pairs


def reading_notes(report: Mapping[str, Any]) -> list[str]:
    """What the user should know of the reading, from `read_rows`' report: one line for each file and note."""
    return [f"{table['file']}: {note}" for table in report["tables"] for note in table["notes"]]
