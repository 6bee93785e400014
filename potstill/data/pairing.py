"""Pairs single texts that have a number each. The label says which of the two has the higher number."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.config.prepare_params import LabelOrder
from potstill.data.splits.splitting import hash_position
from potstill.labels.names import normal_label


def pair_rows(keys: Sequence[str], seed: int) -> list[tuple[int, int]]:
    """Pair rows in an order drawn by a seeded hash of their texts.

    Args:
        keys: comparable texts. Of copies the first takes part, so that no text is in two pairs.
        seed: of the draw.

    Returns:
        Row numbers of the first and second text of each pair. An odd count leaves one row out.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    order = sorted(first.values(), key=lambda row: hash_position(keys[row], seed))
    return list(zip(order[::2], order[1::2], strict=False))


def order_label(first: float | None, second: float | None, label: LabelOrder) -> str | None:
    """Say which text of a pair has the higher number. None: one has no number, or the two are too close."""
    if first is None or second is None or first == second or abs(first - second) < label.min_gap:
        return None
    return normal_label(label.first if first > second else label.second)
