"""Which split a row is in: as the data says, else drawn by a seeded hash of its text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from potstill.config import Split
from potstill.data.split_names import AUTO


def position(key: str, seed: int) -> float:
    """A row's place in [0, 1): uniform over texts, the same for the same text and seed wherever it is computed."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64


def draw(keys: Sequence[str], given: Sequence[str], params: Split) -> list[str]:
    """Each row's split. A row's place depends on its text alone, so rows that are added move none.

    Held-out splits that the data gives are kept as they are; of those it lacks, the shares in params are drawn from
    its train and unassigned rows. Over many rows the shares hold in every class (the hash knows no labels).

    Args:
        keys: comparable texts; copies share a place.
        given: per row train, dev, test, transfer or AUTO.
        params: shares and seed.
    """
    test = 0.0 if "test" in given else params.test
    dev = 0.0 if "dev" in given else params.dev
    result = []
    for key, name in zip(keys, given, strict=True):
        place = position(key, params.seed) if name in (AUTO, "train") else 1.0
        if place < test:
            name = "test"
        elif params.test <= place < params.test + dev:
            name = "dev"
        result.append("train" if name == AUTO else name)
    return result
