"""Proposes limits of `validate` from data: wide enough for later data, narrow enough to notice missing data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.config.base import LABELLED
from potstill.data.cleaning import DAMAGE
from potstill.data.rows import Row, class_counts
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

_CHARACTERS = 5_000
_CLASS_SHARE = 0.95
_DAMAGED = 0.001
# The limits, unless the data needs wider ones.
DEFAULT_LIMITS: Mapping[str, Any] = {
    "characters": [1, _CHARACTERS],
    "max_class_share": _CLASS_SHARE,
    "max_damaged_share": _DAMAGED,
}


def propose_limits(splits: Mapping[str, Sequence[Row]], task: TaskKind) -> dict[str, Any]:
    """Propose the keys of `validate` that the splits of `prepare` meet.

    The rows, and those of a class, may fall to half. The share of the largest class may grow by half of the rest. Texts
    may be half as long again as the longest one.
    """
    rows = {split: max(1, len(splits[split]) // 2) for split in LABELLED}
    limits: dict[str, Any] = {"min_rows": {**rows, "transfer": len(splits["transfer"]) // 2}}
    limits |= _class_limits(splits, task)
    longest = max((len(text) for group in splits.values() for row in group for text in row.texts), default=0)
    damaged = max(_damaged_share(group) for group in splits.values())
    return limits | {
        "characters": [1, _CHARACTERS if longest <= _CHARACTERS else _rounded(longest * 1.5)],
        "max_damaged_share": _DAMAGED if damaged <= _DAMAGED else min(1.0, math.ceil(damaged * 1500) / 1000),
    }


def _class_limits(splits: Mapping[str, Sequence[Row]], task: TaskKind) -> dict[str, Any]:
    if not KINDS[task].has_classes:
        return {"min_per_class": None, "max_class_share": None}
    fewest = math.inf
    largest = 0.0
    for split in LABELLED:
        counts = class_counts(splits[split], task)
        # `validate` computes shares of entities over the types of all rows.
        whole = sum(counts.values()) if KINDS[task].form == "entities" else len(splits[split])
        fewest = min([fewest, *(counts[name] for name in counts)]) if counts else 0
        largest = max([largest, *(count / max(1, whole) for count in counts.values())])
    share = _CLASS_SHARE if largest <= 0.9 else min(1.0, math.ceil((1 + largest) * 500) / 1000)
    return {"min_per_class": max(1, int(fewest) // 2), "max_class_share": share}


def _damaged_share(rows: Sequence[Row]) -> float:
    """Compute the share of damaged texts in a column, the larger one for a pair."""
    if not rows:
        return 0.0
    columns = zip(*(row.texts for row in rows), strict=True)
    return max(sum(re.search(DAMAGE, text) is not None for text in texts) for texts in columns) / len(rows)


def _rounded(value: float) -> int:
    """Round up to two digits: 12,345 becomes 13,000."""
    unit = int(10 ** max(0, len(str(int(value))) - 2))
    return math.ceil(value / unit) * unit
