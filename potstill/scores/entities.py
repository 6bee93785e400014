"""Scores of tagged texts by entity: an entity counts where its type and both its ends are right.

The scores are those of the `seqeval` library, which gives the point estimates; the counts a row that this module keeps
let intervals be drawn around them, and a test holds that both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.scores.metrics import f1, share
from potstill.scores.statistics import Moments

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_ENTITY = np.dtype([("start", np.int64), ("end", np.int64), ("kind", np.int64)])
Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class EntityCounts:
    """Entities of each row by type.

    Attributes:
        right: [rows, types] predicted entities that are gold.
        predicted: [rows, types] predicted ones.
        gold: [rows, types] gold ones.
    """

    right: Counts
    predicted: Counts
    gold: Counts

    @property
    def f1(self) -> float:
        """Micro F1: all types together; 0 without any entity."""
        return float(f1(self.right.sum(), self.predicted.sum() + self.gold.sum()))

    def types(self) -> Doubles:
        """[types] F1 of each type; 0 of one that is nowhere."""
        return f1(self.right.sum(axis=0), self.predicted.sum(axis=0) + self.gold.sum(axis=0))

    def moments(self) -> Moments:
        """Micro `f1`, `precision` and `recall`, and `macro_f1`, the mean over the types that occur, with intervals."""
        count = self.right.shape[1]
        columns = np.concatenate([self.right, self.predicted, self.gold], axis=1).astype(np.float64)

        def part(sums: Doubles, at: int) -> Doubles:
            return sums[..., at * count : (at + 1) * count]

        def micro(sums: Doubles, rows: int) -> Doubles:
            right, ours, theirs = (part(sums, at).sum(axis=-1) for at in range(3))
            return f1(right, ours + theirs)

        def macro(sums: Doubles, rows: int) -> Doubles:
            members = part(sums, 1) + part(sums, 2)
            found: Doubles = f1(part(sums, 0), members).sum(axis=-1) / np.maximum((members > 0).sum(axis=-1), 1)
            return found

        def share_of(index: int) -> Callable[[Doubles, int], Doubles]:
            return lambda sums, rows: share(part(sums, 0).sum(axis=-1), part(sums, index).sum(axis=-1))

        return Moments(columns, {"f1": micro, "precision": share_of(1), "recall": share_of(2), "macro_f1": macro})


def count_entities(gold: Ints, predicted: Ints, lengths: Ints, types: int) -> EntityCounts:
    """Count entities row by row.

    Args:
        gold: [units] class of each unit of all rows, one row after the other, in the order of `tags.tag_set`.
        predicted: [units] classes of the same units; they need not be valid: an I that continues nothing begins an
            entity, as conlleval and seqeval read it.
        lengths: [rows] units of each.
        types: how many types of entities there are.

    Raises:
        ValueError: the units do not match.
    """
    if not len(gold) == len(predicted) == int(lengths.sum()):
        raise ValueError(f"{len(gold)} gold tags, {len(predicted)} predicted ones, {int(lengths.sum())} units")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ours, theirs = _entities(predicted, rows), _entities(gold, rows)

    def counted(found: npt.NDArray[Any]) -> Counts:
        places = rows[found["start"]] * types + found["kind"] - 1
        return np.bincount(places, minlength=len(lengths) * types).reshape(len(lengths), types)

    return EntityCounts(*(counted(found) for found in (ours[np.isin(ours, theirs)], ours, theirs)))


def _entities(classes: Ints, rows: Ints) -> npt.NDArray[Any]:
    """[entities] first unit, last unit and type of each; classes 0 is O, odd B, even I."""
    kinds = (classes + 1) // 2
    before = np.concatenate([[0], kinds[:-1]]) if len(kinds) else kinds
    new_row = np.concatenate([[True], rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, dtype=bool)
    begins = (kinds > 0) & ((classes % 2 == 1) | (kinds != before) | new_row)
    # An entity ends where the next unit does not go on with it.
    goes_on = (kinds > 0) & ~begins
    ends = (kinds > 0) & ~np.concatenate([goes_on[1:], [False]]) if len(kinds) else begins
    found = np.empty(int(begins.sum()), dtype=_ENTITY)
    found["start"], found["end"] = np.flatnonzero(begins), np.flatnonzero(ends)
    found["kind"] = kinds[begins]
    return found


def tags_by_row(classes: Ints, lengths: Ints, names: Sequence[str]) -> list[list[str]]:
    """[rows] tags of the units of each, from classes [units]."""
    ends = np.cumsum(lengths)
    tags = [names[at] for at in classes.tolist()]
    return [tags[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def library_scores(gold: Tags, predicted: Tags) -> dict[str, float]:
    """`precision`, `recall` and `f1` of all entities together, as `seqeval` gives them."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support  # type: ignore[import-untyped]

    rows = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    found = precision_recall_fscore_support(*rows, average="micro", zero_division=0)
    return {name: float(value) for name, value in zip(("precision", "recall", "f1"), found, strict=False)}
