"""Rows of labelled text, and which of those that are copies of each other stay."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from potstill.config.base import SPLITS, TaskKind
from potstill.config.prepare_params import Prepare
from potstill.data.cleaning import comparable
from potstill.data.splits.splitting import draw
from potstill.data.targets import TARGETS, Target
from potstill.labels.names import Value

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
        label: as `potstill.labels.names` reads it; None on transfer rows.
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


def class_counts(rows: Iterable[Row], task: TaskKind) -> Counter[str]:
    """Rows of each class; a row of several labels or entities counts for each of its classes."""
    classes = TARGETS[task].classes
    return Counter(name for row in rows if row.label is not None for name in classes(row.label))


@dataclass(frozen=True)
class Divided:
    """Rows of each split without copies, how many of what were removed, and the test keys that were in train."""

    splits: dict[str, list[Row]]
    removed: Counter[str]
    leaked: set[str]


def divide(rows: Sequence[Row], params: Prepare) -> Divided:
    """Draw the splits that are not given, and remove copies and near copies. The rows stay as they are."""
    target = TARGETS[params.task]
    classes = [() if row.label is None else target.classes(row.label) for row in rows]
    drawn = draw([row.place for row in rows], [row.split for row in rows], params.split, classes)
    placed = []
    for row, split in zip(rows, drawn, strict=True):
        placed.append(copy.copy(row))
        placed[-1].split = split
    removed: Counter[str] = Counter()
    splits = without_contradictions(placed, target, removed)
    leaked = without_copies(splits, removed)
    if params.near_duplicate is not None:
        leaked |= without_near_copies(splits, params.near_duplicate, removed)
    return Divided(splits, removed, leaked)


def without_contradictions(rows: Sequence[Row], target: Target, removed: Counter[str]) -> dict[str, list[Row]]:
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


def without_copies(splits: dict[str, list[Row]], removed: Counter[str]) -> set[str]:
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


def without_near_copies(splits: dict[str, list[Row]], threshold: float, removed: Counter[str]) -> set[str]:
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
