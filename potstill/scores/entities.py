"""Scores of tagged texts by entity: an entity is right if its type and both its ends are right.

The scores are those of the `seqeval` library, which gives the point estimates. This module counts entities row by row,
so that intervals can be computed. A test checks that both agree.
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
        predicted: [rows, types] predicted entities.
        gold: [rows, types] gold entities.
    """

    right: Counts
    predicted: Counts
    gold: Counts

    @property
    def f1(self) -> float:
        """Micro F1: all types together; 0 without any entity."""
        return float(f1(self.right.sum(), self.predicted.sum() + self.gold.sum()))

    def types(self) -> Doubles:
        """Compute the F1 of each type [types]; 0 for a type that does not occur."""
        return f1(self.right.sum(axis=0), self.predicted.sum(axis=0) + self.gold.sum(axis=0))

    def moments(self) -> Moments:
        """Compute micro `f1`, `precision` and `recall`, and `macro_f1`, the mean over the types that occur."""
        count = self.right.shape[1]
        columns = np.concatenate([self.right, self.predicted, self.gold], axis=1).astype(np.float64)

        def part(sums: Doubles, index: int) -> Doubles:
            return sums[..., index * count : (index + 1) * count]

        def micro(sums: Doubles, rows: int) -> Doubles:
            right, predicted, gold = (part(sums, index).sum(axis=-1) for index in range(3))
            return f1(right, predicted + gold)

        def macro(sums: Doubles, rows: int) -> Doubles:
            members = part(sums, 1) + part(sums, 2)
            score: Doubles = f1(part(sums, 0), members).sum(axis=-1) / np.maximum((members > 0).sum(axis=-1), 1)
            return score

        def share_of(index: int) -> Callable[[Doubles, int], Doubles]:
            return lambda sums, rows: share(part(sums, 0).sum(axis=-1), part(sums, index).sum(axis=-1))

        return Moments(columns, {"f1": micro, "precision": share_of(1), "recall": share_of(2), "macro_f1": macro})


def count_entities(gold: Ints, predicted: Ints, lengths: Ints, types: int) -> EntityCounts:
    """Count entities row by row.

    Args:
        gold: [units] class of each unit of all rows, one row after the other, in the order of `tags.tag_set`.
        predicted: [units] classes of the same units. They need not be valid: an I that continues no entity begins one,
            as in conlleval and seqeval.
        lengths: [rows] number of units of each row.
        types: number of types of entities.

    Raises:
        ValueError: the numbers of units differ.
    """
    if not len(gold) == len(predicted) == int(lengths.sum()):
        raise ValueError(f"{len(gold)} gold tags, {len(predicted)} predicted ones, {int(lengths.sum())} units")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    predicted_entities = _entities(predicted, rows)
    gold_entities = _entities(gold, rows)
    right = predicted_entities[np.isin(predicted_entities, gold_entities)]

    def counted(entities: npt.NDArray[Any]) -> Counts:
        cells = rows[entities["start"]] * types + entities["kind"] - 1
        return np.bincount(cells, minlength=len(lengths) * types).reshape(len(lengths), types)

    return EntityCounts(counted(right), counted(predicted_entities), counted(gold_entities))


def _entities(classes: Ints, rows: Ints) -> npt.NDArray[Any]:
    """List the first unit, last unit and type of each entity; class 0 is O, odd classes are B, even ones I."""
    kinds = (classes + 1) // 2
    before = np.concatenate([[0], kinds[:-1]]) if len(kinds) else kinds
    new_row = np.concatenate([[True], rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, dtype=bool)
    begins = (kinds > 0) & ((classes % 2 == 1) | (kinds != before) | new_row)
    # An entity ends where the next unit does not continue it.
    continues = (kinds > 0) & ~begins
    ends = (kinds > 0) & ~np.concatenate([continues[1:], [False]]) if len(kinds) else begins
    entities = np.empty(int(begins.sum()), dtype=_ENTITY)
    entities["start"] = np.flatnonzero(begins)
    entities["end"] = np.flatnonzero(ends)
    entities["kind"] = kinds[begins]
    return entities


def tags_by_row(classes: Ints, lengths: Ints, names: Sequence[str]) -> list[list[str]]:
    """Convert classes [units] to the tags of each row's units [rows]."""
    ends = np.cumsum(lengths)
    tags = [names[index] for index in classes.tolist()]
    return [tags[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def library_scores(gold: Tags, predicted: Tags) -> dict[str, float]:
    """Compute `precision`, `recall` and `f1` of all entities together with `seqeval`."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support  # type: ignore[import-untyped]

    rows = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    scores = precision_recall_fscore_support(*rows, average="micro", zero_division=0)
    return {name: float(value) for name, value in zip(("precision", "recall", "f1"), scores, strict=False)}
