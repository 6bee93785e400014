"""Rows of labelled text, and the removal of copies among them."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from potstill.config.base import SHIFT, SPLITS
from potstill.config.prepare_params import Prepare
from potstill.data.cleaning import comparable
from potstill.data.splits.splitting import draw_splits
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import Value

# A text that is in several splits stays in the first of these.
PRIORITY = ("test", "dev", SHIFT, "train", "transfer")
# Joins the texts of a pair in its key. Cleaning leaves no such character in a text.
PAIR_SEPARATOR = "\x1f"


@dataclass(slots=True)
class Row:
    """A text, or a pair of texts, with its label and split.

    Attributes:
        text: the cleaned text.
        text_pair: the cleaned second text; None for single texts.
        label: as `potstill.labels.names` reads it; None for transfer rows.
        split: train, dev, test, transfer or shift; auto before splits are drawn.
        together: whether all rows with this second text have to be in one split.
        columns: the values of `prepare.keep_columns`.
        key: equal for rows that are copies of each other.
    """

    text: str
    text_pair: str | None
    label: Value | None
    split: str
    together: bool = False
    columns: dict[str, Any] = field(default_factory=dict)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = comparable(PAIR_SEPARATOR.join(self.texts))

    @property
    def texts(self) -> tuple[str, ...]:
        """The input of a model: one text or two."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def split_key(self) -> str:
        """The text whose hash draws the split. All questions about a context share it, so they go to one split."""
        return self.key if not self.together else comparable(self.texts[-1])

    @property
    def id(self) -> str:
        """A hash of the cleaned text: 32 hex digits."""
        return hashlib.blake2b(PAIR_SEPARATOR.join(self.texts).encode(), digest_size=16).hexdigest()


def class_counts(rows: Iterable[Row], task: TaskKind) -> Counter[str]:
    """Count the rows of each class. A row with several labels or entities counts for each of its classes."""
    classes = KINDS[task].classes
    return Counter(name for row in rows if row.label is not None for name in classes(row.label))


@dataclass(frozen=True)
class SplitRows:
    """The rows of each split without copies.

    Attributes:
        splits: the rows of each split; of shift only where the data has such rows.
        removed: the number of removed rows by reason.
        leaked: keys of test rows that were in train too.
    """

    splits: dict[str, list[Row]]
    removed: Counter[str]
    leaked: set[str]


def draw_split_rows(rows: Sequence[Row], params: Prepare) -> SplitRows:
    """Draw the splits that are not given, and remove copies and near copies. The given rows are not changed."""
    kind = KINDS[params.task]
    classes = [() if row.label is None else kind.classes(row.label) for row in rows]
    drawn = draw_splits([row.split_key for row in rows], [row.split for row in rows], params.split, classes)
    copies = [copy.copy(row) for row in rows]
    for row, split in zip(copies, drawn, strict=True):
        row.split = split
    removed: Counter[str] = Counter()
    splits = without_contradictions(copies, kind, removed)
    leaked = without_copies(splits, removed)
    if params.near_duplicate is not None:
        leaked |= without_near_copies(splits, params.near_duplicate, removed)
    return SplitRows(splits, removed, leaked)


def without_contradictions(rows: Sequence[Row], kind: Kind, removed: Counter[str]) -> dict[str, list[Row]]:
    """Group rows by split, and keep one of the copies within a split, or none if their labels cannot be reconciled."""
    groups: dict[str, dict[str, list[Row]]] = {split: {} for split in (*SPLITS, SHIFT)}
    for row in rows:
        groups[row.split].setdefault(row.key, []).append(row)
    splits: dict[str, list[Row]] = {}
    for split, texts in groups.items():
        consistent = [group for group in texts.values() if _reconcile_labels(group, kind)]
        contradicting = sum(len(group) for group in texts.values()) - sum(len(group) for group in consistent)
        removed["contradicting labels"] += contradicting
        removed["copies"] += sum(len(group) - 1 for group in consistent)
        splits[split] = [group[0] for group in consistent]
    if not splits[SHIFT]:
        del splits[SHIFT]
    return splits


def _reconcile_labels(copies: Sequence[Row], kind: Kind) -> bool:
    """Reconcile the labels of copies into that of the first, and say whether this worked."""
    labels = [row.label for row in copies if row.label is not None]
    if len(copies) == 1 or not labels:
        return True
    copies[0].label = kind.settle(labels) if len(labels) == len(copies) else None
    return copies[0].label is not None


def _by_priority(splits: Mapping[str, list[Row]]) -> list[str]:
    return [split for split in PRIORITY if split in splits]


def without_copies(splits: dict[str, list[Row]], removed: Counter[str]) -> set[str]:
    """Remove copies of rows of a split earlier in PRIORITY, in place. Returns the test keys that were in train."""
    first_splits: dict[str, str] = {}
    leaked: set[str] = set()
    for split in _by_priority(splits):
        remaining = []
        for row in splits[split]:
            first = first_splits.setdefault(row.key, split)
            if first == split:
                remaining.append(row)
                continue
            removed[f"{split}: copies of {first}"] += 1
            if (split, first) == ("train", "test"):
                leaked.add(row.key)
        splits[split] = remaining
    return leaked


def without_near_copies(splits: dict[str, list[Row]], threshold: float, removed: Counter[str]) -> set[str]:
    """Remove near copies of held-out rows from later splits, in place. Returns the test keys close to train."""
    from potstill.data.near_duplicates import NearDuplicateIndex

    index = NearDuplicateIndex(threshold)
    held_out: list[Row] = []
    leaked: set[str] = set()
    for split in _by_priority(splits):
        remaining = []
        for row, matches in zip(splits[split], index.matches(row.texts for row in splits[split]), strict=True):
            if not matches:
                remaining.append(row)
                continue
            originals = [held_out[match] for match in matches]
            removed[f"{split}: near copies of {originals[0].split}"] += 1
            if split == "train":
                leaked |= {original.key for original in originals if original.split == "test"}
        splits[split] = remaining
        if split in ("test", "dev", SHIFT):
            index.add(row.texts for row in remaining)
            held_out += remaining
    return leaked
