"""Turns tables into rows: texts, labels and the splits that the data gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from potstill.config.base import SHIFT
from potstill.config.prepare_params import LabelOrder, LabelSign, LabelWords, MarkLabel, Prepare
from potstill.config.prepare_params import Table as TableParams
from potstill.data.annotated import LabelledText, read_annotated_rows
from potstill.data.cleaning import clean
from potstill.data.formats.cells import is_absent, is_missing_text
from potstill.data.formats.columnar import is_saved
from potstill.data.formats.tables import matching_files, read_tables
from potstill.data.formats.tabular import Table
from potstill.data.kept_columns import kept_values
from potstill.data.label_cells import read_labels
from potstill.data.pairing import order_label, pair_rows
from potstill.data.rows import Row
from potstill.data.splits.split_names import AUTO, given_splits, split_column, splits_of_files
from potstill.errors import LabelError, MissingColumnError
from potstill.kinds.definitions.task_kinds import KINDS

# Splits of rows whose labels teach nothing, until params decide about them: the number is too close to zero, or
# there is no label at all.
_UNCLEAR = "unclear"
_UNLABELLED = "unlabelled"


@dataclass
class _TableRows:
    """The rows of a table, notes on the reading, and how many rows were left out for which reason."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def read_rows(raw: Path, params: Prepare) -> tuple[list[Row], dict[str, Any]]:
    """Read all rows with a text, in the splits that the data gives, and a report (part of report.json).

    Args:
        raw: the folder that `ingest` filled.
        params: the section.

    Raises:
        PotstillError: a file, column, label or split is unusable; codes 20 to 30.
    """
    splits = _splits_by_file(raw, params.tables)
    tables = (
        (replace(table, split=splits.get(table.location, table.split)), entry)
        for entry in params.tables
        for table in _tables(raw, entry, params)
    )
    return rows_from_tables(tables, params)


def rows_from_tables(tables: Iterable[tuple[Table, TableParams]], params: Prepare) -> tuple[list[Row], dict[str, Any]]:
    """Turn tables into rows and a report, as `read_rows` gives them.

    Args:
        tables: each with the entry of `prepare.tables` that it belongs to.
        params: the section.

    Raises:
        PotstillError: a column, label or split is unusable.
    """
    rows: list[Row] = []
    files: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for table, entry in tables:
        read = _read_table(table.with_constants(entry.constants), entry, params)
        rows += read.rows
        counts += read.counts
        files.append({"file": table.location, "rows": len(table), "notes": [*table.notes, *read.notes]})
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


def _tables(raw: Path, entry: TableParams, params: Prepare) -> Any:
    return read_tables(
        raw / entry.source,
        entry.files,
        entry.format,
        entry.columns,
        params.max_cell_characters,
        entry.separator,
        ignore_splits=not _takes_given_splits(entry),
    )


def _takes_given_splits(entry: TableParams) -> bool:
    return entry.split == AUTO and entry.split_column is None


def _splits_by_file(raw: Path, tables: Sequence[TableParams]) -> dict[str, str]:
    """Map the files whose names look like splits to these, over all entries that leave the split to the data."""
    files: list[Path] = []
    for entry in filter(_takes_given_splits, tables):
        folder = raw / entry.source
        if entry.format != "saved" and not (entry.format == "auto" and is_saved(folder)):
            files += matching_files(folder, entry.files, entry.format)
    unique = [path.relative_to(raw) for path in dict.fromkeys(files)]
    return {(raw / path).as_posix(): split for path, split in splits_of_files(unique, raw.as_posix()).items()}


def _read_table(table: Table, entry: TableParams, params: Prepare) -> _TableRows:
    splits = given_splits(table, entry.split, entry.split_column)
    undecided = _undecided(table, splits, params)
    names = entry.text or params.text
    first, second = (names, None) if isinstance(names, str) else names
    read = _label_rows(table, splits, undecided, params, (first, second))
    for row, values in zip(read.rows, kept_values(table, entry.source, params.keep_columns, splits), strict=True):
        row.columns = values
    column = split_column(table) if _takes_given_splits(entry) else None
    if column is not None:
        read.notes.append(f"column {column!r} gives the splits")
    elif table.split is not None and _takes_given_splits(entry):
        read.notes.append(f"its name gives the split: {splits[0]}")
    filled = [row for row in read.rows if row.text and row.text_pair != ""]
    read.counts["empty"] += len(read.rows) - len(filled)
    if isinstance(params.label, LabelOrder):
        filled = _paired(filled, params.label, params.split.seed)
    if entry.split == SHIFT:
        return _with_labels_only(read, filled)
    return _without_unlabelled(read, filled, params)


def _with_labels_only(read: _TableRows, rows: Sequence[Row]) -> _TableRows:
    """Leave rows without a label out: nothing may learn from a row of the shift set."""
    read.rows = [row for row in rows if row.split == SHIFT]
    if len(read.rows) < len(rows):
        read.notes.append(f"without a clear label and left out: {len(rows) - len(read.rows):,} of {len(rows):,} rows")
    return read


def _without_unlabelled(read: _TableRows, rows: Sequence[Row], params: Prepare) -> _TableRows:
    """Move rows that have no label to transfer, or leave them out, as params say."""
    read.counts.update(row.split for row in rows if row.split in (_UNCLEAR, _UNLABELLED))
    unlabelled = read.counts[_UNLABELLED]
    leave_out = params.unlabelled == "leave_out"
    if unlabelled:
        outcome = "left out" if leave_out else "taken for transfer"
        read.notes.append(f"without a label and {outcome}: {unlabelled:,} of {len(rows):,} rows")
    read.rows = [row for row in rows if not (leave_out and row.split == _UNLABELLED)]
    for row in read.rows:
        row.split = "transfer" if row.split in (_UNCLEAR, _UNLABELLED) else row.split
    return read


def _undecided(table: Table, splits: Sequence[str], params: Prepare) -> set[int]:
    """Find the rows that need a label and for which an annotation tool gives no valid one.

    Raises:
        LabelError: there are such rows, and params do not say what becomes of them.
    """
    if getattr(params.label, "column", None) == "answer":  # the tool's verdict is the label
        return set()
    rows = [row for row in table.undecided if splits[row] != "transfer"]
    if rows and params.unlabelled == "ask":
        reasons = Counter(table.undecided[row] for row in rows)
        verdict = "; or name 'answer' as the label, if that is to be learnt" if table.tool == "Prodigy" else ""
        counts = ", ".join(f"{count:,} with {reason!r}" for reason, count in reasons.most_common())
        raise LabelError(
            f"{table.row_location(rows[0])} and others have no valid label in {table.tool}'s export ({counts}); set "
            f"prepare.unlabelled to leave_out, or to transfer to learn from their texts without a label{verdict}"
        )
    return set(rows)


def _label_rows(
    table: Table,
    splits: Sequence[str],
    undecided: Collection[int],
    params: Prepare,
    columns: tuple[str, str | None],
) -> _TableRows:
    """Read each row with its label. A row that needs a label and has none gets the split `unclear` or `unlabelled`."""
    needs_label = [split != "transfer" and row not in undecided for row, split in enumerate(splits)]
    if isinstance(params.label, MarkLabel):
        if params.unlabelled != "ask" and not isinstance(params.label, LabelWords):
            marks = table.column(params.label.column)
            needs_label = [needed and not is_absent(mark) for needed, mark in zip(needs_label, marks, strict=True)]
        texts, notes = read_annotated_rows(table, columns, params.label, needs_label)
    else:
        texts, notes = _read_labelled_texts(table, columns, params, needs_label)
    no_label = _UNCLEAR if isinstance(params.label, LabelSign | LabelOrder) else _UNLABELLED
    # All questions about one context go to one split.
    together = KINDS[params.task].marks_spans and columns[1] is not None
    rows = []
    for content, split in zip(texts, splits, strict=True):
        given = split if split == "transfer" or content.label is not None else no_label
        rows.append(Row(content.text, content.text_pair, content.label, given, together=together))
    return _TableRows(rows, notes)


def _read_labelled_texts(
    table: Table, columns: tuple[str, str | None], params: Prepare, needs_label: Sequence[bool]
) -> tuple[list[LabelledText], list[str]]:
    """Read texts whose labels stand in columns of their own, and notes on the reading."""
    assert not isinstance(params.label, MarkLabel)
    first, second = columns
    notes: list[str] = []
    texts = _texts(table, first, notes)
    pairs: Sequence[str | None] = [None] * len(table) if second is None else _texts(table, second, notes)
    labels: list[Any] = [None] * len(table)
    rows = [row for row, needed in enumerate(needs_label) if needed and texts[row]]
    if rows:
        _require_labels(table, params)
        ask = params.unlabelled == "ask"
        values = read_labels(table, rows, params.label, params.labels, params.task, ask=ask)
        for row, label in zip(rows, values, strict=True):
            labels[row] = label
    return [LabelledText(*content) for content in zip(texts, pairs, labels, strict=True)], notes


def _require_labels(table: Table, params: Prepare) -> None:
    """Refuse a file without the column of labels. The sentence says what to do if nobody has labelled it."""
    try:
        for column in [params.label.column] if hasattr(params.label, "column") else []:
            table.column(column)
    except MissingColumnError as error:
        raise MissingColumnError(
            f"{error}; if nobody has labelled its rows, set `split: transfer` for this file in prepare.tables"
        ) from None


def _texts(table: Table, column: str, notes: list[str]) -> list[str]:
    """Clean the texts of a column. A cell without a value, or with a word such as `nan`, gives an empty text."""
    values = table.texts(column)
    words = sum(map(is_missing_text, values))
    if words:
        notes.append(f"nan, None or null alone in {column!r}, which is no text: {words:,} of {len(values):,} rows")
    return ["" if is_absent(value) or is_missing_text(value) else clean(value) for value in values]


def _paired(rows: Sequence[Row], label: LabelOrder, seed: int) -> list[Row]:
    """Pair rows of single texts, split by split.

    Pairs without a label, or whose numbers are too close, get the split `unclear`.
    """
    pairs: list[Row] = []
    for split in dict.fromkeys(row.split for row in rows):
        group = [row for row in rows if row.split == split]
        for index, other_index in pair_rows([row.key for row in group], seed):
            first = group[index]
            second = group[other_index]
            answer = order_label(first.label, second.label, label)  # type: ignore[arg-type]
            pair_split = split if answer is not None or split == "transfer" else _UNCLEAR
            pairs.append(Row(first.text, second.text, answer, pair_split))
    return pairs


def reading_notes(report: Mapping[str, Any]) -> list[str]:
    """List what the user should know about the reading, from `read_rows`' report: one line for each file and note."""
    return [f"{table['file']}: {note}" for table in report["tables"] for note in table["notes"]]
