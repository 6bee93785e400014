"""Limits of `validate` that data meets: low enough for data that comes later, high enough to notice what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.config.base import LABELLED, TaskKind
from potstill.data.cleaning import DAMAGE
from potstill.data.rows import Row, class_counts

_CHARACTERS = 5_000
_CLASS_SHARE = 0.95
_DAMAGED = 0.001
# The limits of data that asks for no wider ones.
USUAL: Mapping[str, Any] = {
    "characters": [1, _CHARACTERS],
    "max_class_share": _CLASS_SHARE,
    "max_damaged_share": _DAMAGED,
}


def limits_of(splits: Mapping[str, Sequence[Row]], task: TaskKind) -> dict[str, Any]:
    """The keys of `validate` for splits as `prepare` makes them, of which they meet every one.

    Rows and rows of a class may fall to half; the share of the largest class may grow by half of what is left; texts
    may be half as long again as the longest.
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
    if task in ("regression", "question_answering"):
        return {"min_per_class": None, "max_class_share": None}
    fewest, largest = math.inf, 0.0
    for split in LABELLED:
        counts = class_counts(splits[split], task)
        # As validate has it: of entities, of all rows' types.
        whole = sum(counts.values()) if task == "token_classification" else len(splits[split])
        fewest = min([fewest, *(counts[name] for name in counts)]) if counts else 0
        largest = max([largest, *(count / max(1, whole) for count in counts.values())])
    share = _CLASS_SHARE if largest <= 0.9 else min(1.0, math.ceil((1 + largest) * 500) / 1000)
    return {"min_per_class": max(1, int(fewest) // 2), "max_class_share": share}


def _damaged_share(rows: Sequence[Row]) -> float:
    """The share of texts of one column with marks of damage, the larger one of a pair."""
    if not rows:
        return 0.0
    columns = zip(*(row.texts for row in rows), strict=True)
    return max(sum(re.search(DAMAGE, text) is not None for text in texts) for texts in columns) / len(rows)


def _rounded(value: float) -> int:
    """Up to two digits: 12,345 becomes 13,000."""
    unit = int(10 ** max(0, len(str(int(value))) - 2))
    return math.ceil(value / unit) * unit
