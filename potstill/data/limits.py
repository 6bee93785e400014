"""Limits of `validate` that data meets: low enough for data that comes later, high enough to notice what is missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from potstill.config import Prepare
from potstill.data.cleaning import DAMAGE
from potstill.data.rows import Row
from potstill.data.targets import TARGETS, Labels

_LABELLED = ("train", "dev", "test")
# What the limits are where the data asks for no others.
CHARACTERS, CLASS_SHARE, DAMAGED = 5_000, 0.95, 0.001


def limits_of(splits: Mapping[str, Sequence[Row]], labels: Labels, params: Prepare) -> dict[str, Any]:
    """The keys of `validate` for splits as `prepare` makes them, of which they meet every one.

    Rows and rows of a class may fall to half; the share of the largest class may grow by half of what is left; texts
    may be half as long again as the longest.
    """
    rows = {split: max(1, len(splits[split]) // 2) for split in _LABELLED}
    limits: dict[str, Any] = {"min_rows": {**rows, "transfer": len(splits["transfer"]) // 2}}
    limits |= _class_limits(splits, labels, params)
    longest = max((len(text) for group in splits.values() for row in group for text in row.texts), default=0)
    damaged = max(_damaged_share(group) for group in splits.values())
    return limits | {
        "characters": [1, CHARACTERS if longest <= CHARACTERS else _rounded(longest * 1.5)],
        "max_damaged_share": DAMAGED if damaged <= DAMAGED else min(1.0, math.ceil(damaged * 1500) / 1000),
    }


def _class_limits(splits: Mapping[str, Sequence[Row]], labels: Labels, params: Prepare) -> dict[str, Any]:
    if params.task in ("regression", "question_answering"):
        return {"min_per_class": None, "max_class_share": None}
    target = TARGETS[params.task]
    fewest, largest = math.inf, 0.0
    for split in _LABELLED:
        counts = Counter(name for row in splits[split] if row.label is not None for name in target.classes(row.label))
        # As validate has it: of entities, of all rows' types.
        whole = sum(counts.values()) if params.task == "token_classification" else len(splits[split])
        fewest = min([fewest, *(counts[name] for name in counts)]) if counts else 0
        largest = max([largest, *(count / max(1, whole) for count in counts.values())])
    share = CLASS_SHARE if largest <= 0.9 else min(1.0, math.ceil((1 + largest) * 500) / 1000)
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
