"""Draws the splits that the data does not give, by a seeded hash of each row's text."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from potstill.config.prepare_params import Split
from potstill.data.splits.split_names import AUTO
from potstill.labels.names import normal_label


def hash_position(key: str, seed: int) -> float:
    """Hash a text and a seed to a number in [0, 1), uniform over texts and the same on every machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64


def draw_splits(
    keys: Sequence[str], given: Sequence[str], params: Split, classes: Sequence[tuple[str, ...]] | None = None
) -> list[str]:
    """Draw the split of each row from its text and label alone, so that new rows move no old one.

    Held-out splits that the data gives are kept. Those that it lacks are drawn from its train and unassigned rows, with
    the shares in params. Over many rows the shares hold in every class. A rare class that the common seed leaves out of
    a split gets a seed of its own in `params.class_seeds`. This has to be stored: a split that does not depend on other
    rows cannot be balanced by looking at them.

    Args:
        keys: comparable texts. Copies go to the same split.
        given: [rows] train, dev, test, transfer or AUTO.
        params: shares and seeds.
        classes: [rows] the classes of each row; None for a task without classes.
    """
    test, dev = drawn_shares(given, params)
    seeds = _row_seeds(keys, classes, params) if classes and params.class_seeds else [params.seed] * len(keys)
    splits = []
    for key, name, seed in zip(keys, given, seeds, strict=True):
        drawn = drawn_split(hash_position(key, seed), test, dev, params.test) if name in (AUTO, "train") else name
        splits.append(drawn)
    return splits


def drawn_shares(given: Sequence[str], params: Split) -> tuple[float, float]:
    """Choose the shares of test and dev to draw. A split that the data gives has the share 0."""
    test = 0.0 if "test" in given else params.test
    dev = 0.0 if "dev" in given else params.dev
    return test, dev


def drawn_split(position: float, test: float, dev: float, dev_start: float) -> str:
    """Choose the split at a position in [0, 1). Dev starts after the share of test, even if no test split is drawn."""
    if position < test:
        return "test"
    return "dev" if dev_start <= position < dev_start + dev else "train"


def _row_seeds(keys: Sequence[str], classes: Sequence[tuple[str, ...]], params: Split) -> list[int]:
    """Choose the seed of each row. Copies whose classes differ get the common one, since they are removed together."""
    by_class = {normal_label(name): seed for name, seed in params.class_seeds.items()}
    first: dict[str, tuple[str, ...]] = {}
    differing = {key for key, names in zip(keys, classes, strict=True) if first.setdefault(key, names) != names}
    return [
        params.seed if key in differing else row_seed(names, by_class, params.seed)
        for key, names in zip(keys, classes, strict=True)
    ]


def row_seed(names: Collection[str], by_class: Mapping[str, int], common: int) -> int:
    """Choose the seed of the first class in `by_class` that a row has, else the common seed."""
    if len(names) == 1:
        (name,) = names
        return by_class.get(name, common)
    return next((seed for name, seed in by_class.items() if name in names), common)
