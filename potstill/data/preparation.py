"""From tables to clean splits without copies: the steps of the `prepare` stage, in order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config import GENERATOR, OF_PLACES, SPLITS, Augment, LabelOrder, MarkLabel, Prepare, TaskKind
from potstill.config import Table as TableParams
from potstill.data.annotated import annotated_rows
from potstill.data.augmentation import augment
from potstill.data.cleaning import clean, comparable
from potstill.data.label_cells import read_labels
from potstill.data.labels import Value
from potstill.data.pairing import order_label, partners
from potstill.data.split_names import given_splits
from potstill.data.splitting import draw
from potstill.data.tables import read_tables
from potstill.data.tabular import Table
from potstill.data.targets import TARGETS, Target, check_varied, names_of
from potstill.errors import DuplicateRowsError, EmptyDataError, LeakageError

if TYPE_CHECKING:
    import pyarrow as pa

# A text that is in two splits stays in the first of these.
PRIORITY = ("test", "dev", "train", "transfer")
# Between the texts of a pair in its key; cleaning leaves no such character in a text.
_BETWEEN = "\x1f"


@dataclass
class Row:
    """One text, or pair of texts.

    Attributes:
        text: cleaned.
        text_pair: the second text, cleaned; None where the data has single texts.
        label: as `potstill.data.labels` reads it; None on transfer rows.
        split: train, dev, test or transfer (before `draw` also auto).
        together: whether all rows of its second text have to be in one split.
        key: the form in which two rows are copies.
    """

    text: str
    text_pair: str | None
    label: Value | None
    split: str
    together: bool = False
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = comparable(_BETWEEN.join(self.texts))

    @property
    def texts(self) -> tuple[str, ...]:
        """What a model reads: one text or two."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def place(self) -> str:
        """By which its split is drawn: of a question its context, whose questions all go to one split."""
        return self.key if not self.together else comparable(self.texts[-1])

    @property
    def id(self) -> str:
        """Hash of the cleaned text: 32 hex digits."""
        return hashlib.blake2b(_BETWEEN.join(self.texts).encode(), digest_size=16).hexdigest()


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
    rows, report = _read(raw, params)
    target = TARGETS[params.task]
    labelled = [row for row in rows if row.label is not None]
    _check_labelled(labelled, params.task)
    labels = names_of([row.label for row in labelled], params)
    given_test = any(row.split == "test" for row in labelled)
    for row, split in zip(
        rows, draw([row.place for row in rows], [row.split for row in rows], params.split), strict=True
    ):
        row.split = split
    removed: Counter[str] = Counter()
    splits = _without_contradictions(rows, target, removed)
    leaked = _without_copies(splits, removed)
    if params.near_duplicate is not None:
        leaked |= _without_near_copies(splits, params.near_duplicate, removed)
    if params.augment is not None:
        texts = _augmented([row.text for row in splits["train"]], params.augment, raw / GENERATOR, device)
        report["augmented"] = _add(splits, texts, params.near_duplicate)
    if given_test:
        _check_leakage(len(leaked), len(splits["test"]), params.max_leakage, report)
    target.check({split: [row.label for row in splits[split]] for split in PRIORITY[:3]}, labels)
    report["removed"] = report["removed"] | dict(removed)
    report["splits"] = {
        split: {"rows": len(splits[split])} | target.counts([row.label for row in splits[split]], labels)
        for split in SPLITS
    }
    return Prepared(params.task, splits, labels, params.pair, report)


def _read(raw: Path, params: Prepare) -> tuple[list[Row], dict[str, Any]]:
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


def _without_contradictions(rows: Sequence[Row], target: Target, removed: Counter[str]) -> dict[str, list[Row]]:
    """Rows by split; of copies within a split one stays, none if no one knows which of their labels is right."""
    groups: dict[str, dict[str, list[Row]]] = {split: {} for split in SPLITS}
    for row in rows:
        groups[row.split].setdefault(row.key, []).append(row)
    splits: dict[str, list[Row]] = {}
    for split, texts in groups.items():
        agreeing = [group for group in texts.values() if _settled(group, target)]
        contradicting = sum(len(group) for group in texts.values()) - sum(len(group) for group in agreeing)
        removed["contradicting labels"] += contradicting
        removed["copies"] += sum(len(group) - 1 for group in agreeing)
        splits[split] = [group[0] for group in agreeing]
    return splits


def _settled(copies: Sequence[Row], target: Target) -> bool:
    """Whether copies have one label, or none; the first gets it."""
    given = [row.label for row in copies if row.label is not None]
    if len(copies) == 1 or not given:
        return True
    copies[0].label = target.settle(given) if len(given) == len(copies) else None
    return copies[0].label is not None


def _without_copies(splits: dict[str, list[Row]], removed: Counter[str]) -> set[str]:
    """Remove copies of rows of a split earlier in PRIORITY, in place; return the test keys that were in train."""
    owner: dict[str, str] = {}
    leaked: set[str] = set()
    for split in PRIORITY:
        kept = []
        for row in splits[split]:
            first = owner.setdefault(row.key, split)
            if first == split:
                kept.append(row)
                continue
            removed[f"{split}: copies of {first}"] += 1
            if (split, first) == ("train", "test"):
                leaked.add(row.key)
        splits[split] = kept
    return leaked


def _without_near_copies(splits: dict[str, list[Row]], threshold: float, removed: Counter[str]) -> set[str]:
    """Remove near copies of test and dev from the splits after them, in place; return the test keys close to train."""
    from potstill.data.near import NearIndex

    index = NearIndex(threshold)
    held_out: list[Row] = []
    leaked: set[str] = set()
    for split in PRIORITY:
        kept = []
        for row, found in zip(splits[split], index.matches(row.texts for row in splits[split]), strict=True):
            if not found:
                kept.append(row)
                continue
            originals = [held_out[number] for number in found]
            removed[f"{split}: near copies of {originals[0].split}"] += 1
            if split == "train":
                leaked |= {original.key for original in originals if original.split == "test"}
        splits[split] = kept
        if split in ("test", "dev"):
            index.add(row.texts for row in kept)
            held_out += kept
    return leaked


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
    _without_copies(beside, removed)
    if near is not None:
        _without_near_copies(beside, near, removed)
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
