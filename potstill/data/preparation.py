"""Prepares clean splits without copies from tables: the steps of the `prepare` stage, in order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config.base import SHIFT
from potstill.config.prepare_params import Augment, Prepare
from potstill.data.augmentation import augment
from potstill.data.kept_columns import kept_arrays
from potstill.data.reading import read_rows
from potstill.data.rows import Row, draw_split_rows, without_copies, without_near_copies
from potstill.data.splits.splitting import hash_position
from potstill.data.splits.stratifying import check_classes
from potstill.data.targets import check_varied, names_of
from potstill.errors import DuplicateRowsError, EmptyDataError, LabelError, LeakageError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import normal_label

if TYPE_CHECKING:
    import pyarrow as pa

# Takes the original texts and the section, and gives copies with other words.
Replace = Callable[[Sequence[str], Augment], list[str]]


@dataclass
class Prepared:
    """The rows of each split in the order of the sources, the labels in class-index order, and report.json."""

    task: TaskKind
    splits: dict[str, list[Row]]
    labels: list[str | int]
    pair: bool
    report: dict[str, Any]

    def table(self, split: str) -> pa.Table:
        """Build the table of `data/prepared/<split>.parquet`."""
        import pyarrow as pa

        rows = self.splits[split]
        columns: dict[str, pa.Array] = {
            "id": pa.array([row.id for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
        }
        if self.pair:
            columns["text_pair"] = pa.array([row.text_pair for row in rows], pa.string())
        labels = KINDS[self.task].column([row.label for row in rows], self.labels)
        return pa.table(columns | {"label": labels} | kept_arrays(self.splits, split))


def prepare(raw: Path, params: Prepare, *, replace: Replace | None = None) -> Prepared:
    """Read, clean, split and deduplicate.

    Args:
        raw: the folder that `ingest` filled.
        params: the section.
        replace: copies texts with words replaced by a model's guesses, for `augment.replacements`.

    Raises:
        PotstillError: a file, column, label, class or split is unusable; see the classes in potstill/errors.py,
            codes 20 to 30.
    """
    rows, report = read_rows(raw, params)
    labelled = [row for row in rows if row.label is not None and row.split != SHIFT]
    check_labelled(labelled, params.task)
    labels = names_of([row.label for row in labelled], params)
    _check_shift_labels(rows, labels, params.task)
    given_test = any(row.split == "test" for row in labelled)
    split_rows = draw_split_rows(rows, params)
    splits = split_rows.splits
    if given_test:
        _check_leakage(len(split_rows.leaked), len(splits["test"]), params.max_leakage, report)
    check_classes(rows, splits, labels, params)
    if params.labelled_rows is not None:
        report["labels_left_out"] = _leave_out_labels(splits, params.labelled_rows, params.split.seed)
    if params.augment is not None:
        texts = [row.text for row in splits["train"]]
        texts = [*augment(texts, params.augment), *(replace(texts, params.augment) if replace is not None else [])]
        report["augmented"] = _add_to_transfer(splits, texts, params.near_duplicate)
    report["removed"] = report["removed"] | dict(split_rows.removed)
    report["splits"] = {
        split: {"rows": len(splits[split])} | KINDS[params.task].counts([row.label for row in splits[split]], labels)
        for split in splits
    }
    return Prepared(params.task, splits, labels, params.pair, report)


def check_labelled(rows: Sequence[Row], task: TaskKind) -> None:
    """Refuse a labelled set that no model can learn from, before anything is split.

    Raises:
        EmptyDataError: there are no rows.
        DuplicateRowsError: all rows are copies of one text.
        OneClassError: all rows have one label.
    """
    if not rows:
        raise EmptyDataError(
            "no labelled row with a text is left after cleaning; check prepare.text, prepare.label and the data"
        )
    if len(rows) > 1 and len({row.key for row in rows}) == 1:
        raise DuplicateRowsError(
            f"all {len(rows)} labelled rows are copies of one text ({rows[0].text[:60]!r}); "
            "give distinct texts, or check prepare.text"
        )
    if not KINDS[task].marks_spans:
        check_varied([row.label for row in rows])


def _check_shift_labels(rows: Sequence[Row], labels: Sequence[str | int], task: TaskKind) -> None:
    """Refuse a label of the shift set that the other splits lack, since no model could answer it.

    Raises:
        LabelError: names the first such label.
    """
    learnt = {normal_label(name) for name in KINDS[task].class_names(labels)}
    shift_labels = {name for row in rows if row.split == SHIFT for name in KINDS[task].classes(row.label)}
    unknown = sorted(name for name in shift_labels if normal_label(name) not in learnt)
    if unknown:
        raise LabelError(
            f"the shift set has the label {unknown[0]!r}, which no other row has ({', '.join(map(str, labels))}); "
            "leave its rows out, or map the label"
        )


def _add_to_transfer(splits: dict[str, list[Row]], texts: Sequence[str], near: float | None) -> dict[str, Any]:
    """Add new texts to transfer, in place, without copies and near copies of held-out rows."""
    rows = {row.key: row for row in (Row(text, None, None, "transfer") for text in texts)}
    extended = splits | {"transfer": [*splits["transfer"], *rows.values()]}
    removed: Counter[str] = Counter()
    without_copies(extended, removed)
    if near is not None:
        without_near_copies(extended, near, removed)
    added = len(extended["transfer"]) - len(splits["transfer"])
    splits["transfer"] = extended["transfer"]
    return {"rows": added, "removed": dict(removed)}


def _leave_out_labels(splits: dict[str, list[Row]], count: int, seed: int) -> int:
    """Move rows of train to transfer without their label, in place, until `count` are left; return how many moved."""
    order = sorted(splits["train"], key=lambda row: hash_position(row.split_key, seed + 1))
    unlabelled = {row.key for row in order[count:]}
    moved = [dataclasses.replace(row, label=None, split="transfer") for row in splits["train"] if row.key in unlabelled]
    splits["train"] = [row for row in splits["train"] if row.key not in unlabelled]
    splits["transfer"] = [*moved, *splits["transfer"]]
    return len(moved)


def _check_leakage(leaked: int, test: int, limit: float, report: dict[str, Any]) -> None:
    share = leaked / test if test else 0.0
    report["leakage"] = {"test_rows_in_train": leaked, "share": round(share, 6)}
    if share > limit:
        raise LeakageError(
            f"{leaked:,} of {test:,} rows of the given test split ({share:.1%}) are in train or close to a row of it, "
            f"above prepare.max_leakage = {limit:.1%}; give a test split of other texts"
        )
