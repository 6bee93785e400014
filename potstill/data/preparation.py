"""From tables to clean splits without copies: the steps of the `prepare` stage, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config import GENERATOR, OF_PLACES, SPLITS, Augment, LabelOrder, MarkLabel, Prepare, TaskKind
from potstill.config import Table as TableParams
from potstill.data.annotated import annotated_rows
from potstill.data.augmentation import augment
from potstill.data.cleaning import clean
from potstill.data.label_cells import read_labels
from potstill.data.labels import Value
from potstill.data.pairing import order_label, partners
from potstill.data.rows import Row, divide, without_copies, without_near_copies
from potstill.data.split_names import given_splits
from potstill.data.stratifying import check_classes
from potstill.data.tables import read_tables
from potstill.data.tabular import Table
from potstill.data.targets import TARGETS, check_varied, names_of
from potstill.errors import DuplicateRowsError, EmptyDataError, LeakageError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Prepared:
    """Rows of each split in the order of the sources, labels in class-index order, and what was done (report.json)."""

    task: TaskKind
    splits: dict[str, list[Row]]
    labels: list[str | int]
    pair: bool
    report: dict[str, Any]

    def table(self, split: str) -> pa.Table:
        """A split as `data/prepared/<split>.parquet` holds it."""
        import pyarrow as pa

        rows = self.splits[split]
        columns: dict[str, pa.Array] = {
            "id": pa.array([row.id for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
        }
        if self.pair:
            columns["text_pair"] = pa.array([row.text_pair for row in rows], pa.string())
        labels = TARGETS[self.task].column([row.label for row in rows], self.labels)
        return pa.table(columns | {"label": labels})


def prepare(raw: Path, params: Prepare, *, device: str = "auto") -> Prepared:
    """Read, clean, split and deduplicate.

    Args:
        raw: what `ingest` brought.
        params: the section.
        device: where a model that replaces words runs: auto, cpu, cuda or mps.

    Raises:
        PotstillError: a file, column, label, class or split does not allow it; see the class of each in
            potstill/errors.py, codes 20 to 30.
    """
    rows, report = read_rows(raw, params)
    target = TARGETS[params.task]
    labelled = [row for row in rows if row.label is not None]
    _check_labelled(labelled, params.task)
    labels = names_of([row.label for row in labelled], params)
    given_test = any(row.split == "test" for row in labelled)
    divided = divide(rows, params)
    splits = divided.splits
    if given_test:
        _check_leakage(len(divided.leaked), len(splits["test"]), params.max_leakage, report)
    check_classes(rows, splits, labels, params)
    if params.augment is not None:
        texts = _augmented([row.text for row in splits["train"]], params.augment, raw / GENERATOR, device)
        report["augmented"] = _add(splits, texts, params.near_duplicate)
    report["removed"] = report["removed"] | dict(divided.removed)
    report["splits"] = {
        split: {"rows": len(splits[split])} | target.counts([row.label for row in splits[split]], labels)
        for split in SPLITS
    }
    return Prepared(params.task, splits, labels, params.pair, report)


def read_rows(raw: Path, params: Prepare) -> tuple[list[Row], dict[str, Any]]:
    """All rows with a text, in the splits that the data gives, and what was read. See `prepare`."""
    rows: list[Row] = []
    tables: list[dict[str, Any]] = []
    empty = unclear = 0
    for wanted in params.tables:
        for table in read_tables(
            raw / wanted.source, wanted.files, wanted.format, wanted.columns, params.max_cell_characters
        ):
            found = _rows(table.with_constants(wanted.constants), wanted, params)
            kept = [row for row in found if row.text and row.text_pair != ""]
            empty += len(found) - len(kept)
            if isinstance(params.label, LabelOrder):
                kept = _paired(kept, params.label, params.split.seed)
            unclear += sum(row.split == "unclear" for row in kept)
            for row in kept:
                row.split = "transfer" if row.split == "unclear" else row.split
            rows += kept
            tables.append({"file": table.where, "rows": len(table), "notes": list(table.notes)})
    report = {
        "tables": tables,
        "read": sum(table["rows"] for table in tables),
        "unclear": unclear,
        "removed": {"empty": empty},
    }
    return rows, report


def _rows(table: Table, wanted: TableParams, params: Prepare) -> list[Row]:
    names = wanted.text or params.text
    first, second = (names, None) if isinstance(names, str) else names
    if params.task in OF_PLACES:
        return _annotated(table, wanted, params, first, second)
    texts = [clean(value) for value in table.column(first)]
    pairs: Sequence[str | None] = (
        [None] * len(table) if second is None else [clean(value) for value in table.column(second)]
    )
    splits = given_splits(table, wanted.split, wanted.split_column)
    labels: list[Value | None] = [None] * len(table)
    if set(splits) != {"transfer"}:
        labelled = [
            at for at, (text, split) in enumerate(zip(texts, splits, strict=True)) if text and split != "transfer"
        ]
        for at, label in zip(labelled, _labels(table, labelled, params), strict=True):
            labels[at] = label
            splits[at] = "unclear" if label is None else splits[at]
    return [Row(*row) for row in zip(texts, pairs, labels, splits, strict=True)]


def _annotated(table: Table, wanted: TableParams, params: Prepare, first: str, second: str | None) -> list[Row]:
    """Rows whose labels are places in their text, which are read together with it."""
    splits = given_splits(table, wanted.split, wanted.split_column)
    marked = [split != "transfer" for split in splits]
    assert isinstance(params.label, MarkLabel)
    found = annotated_rows(table, first, second, params.label, marked)
    return [
        Row(row.text, row.text_pair, row.label, split, together=second is not None)
        for row, split in zip(found, splits, strict=True)
    ]


def _check_labelled(rows: Sequence[Row], task: TaskKind) -> None:
    """What makes a labelled set useless before anything is split."""
    if not rows:
        raise EmptyDataError(
            "no labelled row with a text is left after cleaning; check prepare.text, prepare.label and the data"
        )
    if len(rows) > 1 and len({row.key for row in rows}) == 1:
        raise DuplicateRowsError(
            f"all {len(rows)} labelled rows are copies of one text ({rows[0].text[:60]!r}); "
            "give distinct texts, or check prepare.text"
        )
    if task not in OF_PLACES:
        check_varied([row.label for row in rows])


def _labels(table: Table, rows: Sequence[int], params: Prepare) -> list[Value | None]:
    assert not isinstance(params.label, MarkLabel)
    found: list[Value | None] = read_labels(table, rows, params.label, params.labels, params.task)
    return found


def _paired(rows: Sequence[Row], label: LabelOrder, seed: int) -> list[Row]:
    """Rows of single texts in twos, split by split; those too near to tell, and unlabelled ones, become `unclear`."""
    found: list[Row] = []
    for split in dict.fromkeys(row.split for row in rows):
        group = [row for row in rows if row.split == split]
        for one, other in partners([row.key for row in group], seed):
            first, second = group[one], group[other]
            answer = order_label(first.label, second.label, label)  # type: ignore[arg-type]
            where = split if answer is not None or split == "transfer" else "unclear"
            found.append(Row(first.text, second.text, answer, where))
    return found


def _augmented(texts: Sequence[str], params: Augment, generator: Path, device: str) -> list[str]:
    made = augment(texts, params)
    if params.replacements:
        from potstill.data.replacement import replace_words

        made += replace_words(texts, params, generator, device)
    return made


def _add(splits: dict[str, list[Row]], texts: Sequence[str], near: float | None) -> dict[str, Any]:
    """Add new texts to transfer, in place, without those that are or come close to a held-out row."""
    rows = {row.key: row for row in (Row(text, None, None, "transfer") for text in texts)}
    beside = splits | {"transfer": [*splits["transfer"], *rows.values()]}
    removed: Counter[str] = Counter()
    without_copies(beside, removed)
    if near is not None:
        without_near_copies(beside, near, removed)
    added = len(beside["transfer"]) - len(splits["transfer"])
    splits["transfer"] = beside["transfer"]
    return {"rows": added, "removed": dict(removed)}


def _check_leakage(leaked: int, test: int, limit: float, report: dict[str, Any]) -> None:
    share = leaked / test if test else 0.0
    report["leakage"] = {"test_rows_in_train": leaked, "share": round(share, 6)}
    if share > limit:
        raise LeakageError(
            f"{leaked:,} of {test:,} rows of the given test split ({share:.1%}) are in train or close to a row of it, "
            f"above prepare.max_leakage = {limit:.1%}; give a test split of other texts"
        )
