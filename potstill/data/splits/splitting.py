"""Which split a row is in: as the data says, else drawn by a seeded hash of its text."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from potstill.config.prepare_params import Split
from potstill.data.splits.split_names import AUTO
from potstill.labels.names import normal_label


def position(key: str, seed: int) -> float:
    """A row's place in [0, 1): uniform over texts, the same for the same text and seed wherever it is computed."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64


def draw(
    keys: Sequence[str], given: Sequence[str], params: Split, classes: Sequence[tuple[str, ...]] | None = None
) -> list[str]:
    """Each row's split. A row's place depends on its text and label alone, so rows that are added move none.

    Held-out splits that the data gives are kept as they are; of those it lacks, the shares in params are drawn from
    its train and unassigned rows. Over many rows the shares hold in every class; a class of few rows that the common
    seed leaves out of a split has a seed of its own in `params.class_seeds`. No draw could do without such a memory:
    a row whose split is the same whatever rows are added has it from itself alone.

    Args:
        keys: comparable texts; copies share a place.
        given: per row train, dev, test, transfer or AUTO.
        params: shares and seeds.
        classes: of each row; None: none.
    """
    test, dev = drawn_shares(given, params)
    seeds = _row_seeds(keys, classes, params) if classes and params.class_seeds else [params.seed] * len(keys)
    result = []
    for key, name, seed in zip(keys, given, seeds, strict=True):
        drawn = drawn_split(position(key, seed), test, dev, params.test) if name in (AUTO, "train") else name
        result.append(drawn)
    return result


def drawn_shares(given: Sequence[str], params: Split) -> tuple[float, float]:
    """Shares of test and dev to draw: 0 where the data gives that split."""
    return 0.0 if "test" in given else params.test, 0.0 if "dev" in given else params.dev


def drawn_split(place: float, test: float, dev: float, first_of_dev: float) -> str:
    """The split at a place in [0, 1). Dev begins where a drawn test split ends, drawn or not."""
    if place < test:
        return "test"
    return "dev" if first_of_dev <= place < first_of_dev + dev else "train"


def _row_seeds(keys: Sequence[str], classes: Sequence[tuple[str, ...]], params: Split) -> list[int]:
    """The seed of each row. Copies whose classes differ have the common one: they are removed together."""
    by_class = {normal_label(name): seed for name, seed in params.class_seeds.items()}
    first: dict[str, tuple[str, ...]] = {}
    differing = {key for key, names in zip(keys, classes, strict=True) if first.setdefault(key, names) != names}
    return [
        params.seed if key in differing else row_seed(names, by_class, params.seed)
        for key, names in zip(keys, classes, strict=True)
    ]


def row_seed(names: Collection[str], by_class: Mapping[str, int], common: int) -> int:
    """The seed of the first class of `by_class` that a row carries, else the common one."""
    if len(names) == 1:
        (name,) = names
        return by_class.get(name, common)
    return next((seed for name, seed in by_class.items() if name in names), common)
