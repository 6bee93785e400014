"""Scores of tagged texts by entity: an entity counts where its type and both its ends are right.

The scores are those of the `seqeval` library. What lets an interval be drawn around them are counts a row, which this
module keeps; a test holds that both agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.data.tags import entities_of
from potstill.evaluation.statistics import Comparison, verdict

Counts = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]
_ENTITY = np.dtype([("start", np.int64), ("end", np.int64), ("kind", np.int64)])
Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class EntityCounts:
    """Entities of each row, all types together.

    Attributes:
        right: [rows] predicted entities that are gold.
        predicted: [rows] predicted ones.
        gold: [rows] gold ones.
    """

    right: Counts
    predicted: Counts
    gold: Counts

    def f1(self, weights: npt.NDArray[np.integer] | None = None) -> npt.NDArray[np.float64]:
        """Micro F1, 0 without any entity: a scalar, or [replicates] with [replicates, rows] weights of the rows."""
        ours = np.ones(len(self.right), dtype=np.int64) if weights is None else weights
        members = ours @ (self.predicted + self.gold)
        found: npt.NDArray[np.float64] = np.divide(
            2 * (ours @ self.right), members, out=np.zeros(np.shape(members)), where=np.asarray(members > 0)
        )
        return found


def count_entities(gold: Ints, predicted: Ints, lengths: Ints) -> EntityCounts:
    """Count entities row by row.

    Args:
        gold: [units] class of each unit of all rows, one row after the other, in the order of `tags.tag_set`.
        predicted: [units] classes of the same units; they need not be valid: an I that continues nothing begins an
            entity, as conlleval and seqeval read it.
        lengths: [rows] units of each.

    Raises:
        ValueError: the units do not match.
    """
    if not len(gold) == len(predicted) == int(lengths.sum()):
        raise ValueError(f"{len(gold)} gold tags, {len(predicted)} predicted ones, {int(lengths.sum())} units")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ours, theirs = _entities(predicted, rows), _entities(gold, rows)
    same = np.isin(ours, theirs)
    size = len(lengths)
    return EntityCounts(*(np.bincount(rows[found["start"]], minlength=size) for found in (ours[same], ours, theirs)))


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


def entity_scores(gold: Tags, predicted: Tags) -> dict[str, float]:
    """Micro `precision`, `recall` and `f1`, and `macro_f1`, the mean over the types."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support  # type: ignore[import-untyped]

    rows = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    precision, recall, f1, _ = precision_recall_fscore_support(*rows, average="micro", zero_division=0)
    macro = precision_recall_fscore_support(*rows, average="macro", zero_division=0)[2] if _any_entity(*rows) else 0.0
    scores = {"precision": precision, "recall": recall, "f1": f1, "macro_f1": macro}
    return {name: float(value) for name, value in scores.items()}


def type_scores(gold: Tags, predicted: Tags) -> dict[str, dict[str, float]]:
    """Type -> its `precision`, `recall`, `f1` and `entities` (gold ones), over the types in either, sorted."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    rows = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    types = sorted({entity.type for part in rows for tags in part for entity in entities_of(tags)})
    columns = precision_recall_fscore_support(*rows, average=None, zero_division=0)
    return {
        kind: {"precision": float(p), "recall": float(r), "f1": float(f), "entities": int(n)}
        for kind, p, r, f, n in zip(types, *columns, strict=True)
    }


def _any_entity(*parts: list[list[str]]) -> bool:
    return any(entities_of(tags) for part in parts for tags in part)


def f1_interval(counts: EntityCounts, *, replicates: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of micro F1 over resampled rows (Efron & Tibshirani 1993, ch. 13).

    Raises:
        ValueError: no rows.
    """
    scores = _resampled((counts,), replicates, seed)[0]
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_f1_bootstrap(
    first: EntityCounts, second: EntityCounts, *, replicates: int, confidence: float, seed: int
) -> Comparison:
    """Micro F1 of one model minus another's, on the same rows resampled together (Efron & Tibshirani 1993, ch. 13).

    Raises:
        ValueError: no rows, or other rows.
    """
    if not np.array_equal(first.gold, second.gold):
        raise ValueError("the two models were not scored on the same rows")
    ours, theirs = _resampled((first, second), replicates, seed)
    low, high = np.quantile(ours - theirs, [(1 - confidence) / 2, (1 + confidence) / 2])
    return verdict(float(first.f1() - second.f1()), float(low), float(high))


# Rows x replicates of one draw: bounds its memory.
_DRAW = 5_000_000


def _resampled(models: Sequence[EntityCounts], replicates: int, seed: int) -> list[npt.NDArray[np.float64]]:
    """[models] of [replicates] scores over the same draws of rows."""
    rows = len(models[0].gold)
    if not rows:
        raise ValueError("no rows")
    random = np.random.default_rng(seed)
    parts: list[list[npt.NDArray[np.float64]]] = [[] for _ in models]
    at_once = max(_DRAW // rows, 1)
    for start in range(0, replicates, at_once):
        size = min(at_once, replicates - start)
        weights = random.multinomial(rows, np.full(rows, 1 / rows), size=size)
        for part, counts in zip(parts, models, strict=True):
            part.append(counts.f1(weights))
    return [np.concatenate(part) for part in parts]
