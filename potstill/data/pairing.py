"""Pairs of texts out of single ones with a number each: which of the two has the higher one?"""

from __future__ import annotations

from collections.abc import Sequence

from potstill.config.prepare_params import LabelOrder
from potstill.data.splits.splitting import position


def partners(keys: Sequence[str], seed: int) -> list[tuple[int, int]]:
    """Put rows together in twos, in an order drawn by a seeded hash of their texts.

    Args:
        keys: comparable texts; of copies the first takes part, so that no text is in two pairs.
        seed: another one, other pairs.

    Returns:
        Numbers of rows, first text and second text; of an odd count one row is left out.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    order = sorted(first.values(), key=lambda row: position(keys[row], seed))
    return list(zip(order[::2], order[1::2], strict=False))


def order_label(ours: float | None, theirs: float | None, label: LabelOrder) -> str | None:
    """Which of a pair's texts has the higher number; None where one has none, or they are too near to tell."""
    if ours is None or theirs is None or ours == theirs or abs(ours - theirs) < label.min_gap:
        return None
    return label.first if ours > theirs else label.second
