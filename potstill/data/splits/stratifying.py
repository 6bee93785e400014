"""Puts every class into every split: finds the classes that a draw leaves out, and seeds that put them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from potstill.config.base import LABELLED
from potstill.config.prepare_params import Prepare, Split
from potstill.config.yaml_file import as_yaml
from potstill.data.rows import Row, SplitRows, class_counts, draw_split_rows
from potstill.data.splits.split_names import AUTO
from potstill.data.splits.splitting import drawn_shares, drawn_split, hash_position, row_seed
from potstill.errors import SmallClassError
from potstill.kinds.definitions.kind import Names
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.labels.names import normal_label

# One row in each of train, dev and test.
FEWEST_ROWS = len(LABELLED)
# Seeds tried for a class. One seed in twelve puts three rows of a class into three splits.
_CLASS_SEEDS = 2_000
# Draws of all rows until no class is left out. One suffices if no two classes share rows or near copies.
_ROUNDS = 8
# Common seeds tried for tasks without classes.
_COMMON_SEEDS = 40


def check_classes(rows: Sequence[Row], splits: Mapping[str, Sequence[Row]], labels: Names, params: Prepare) -> None:
    """Refuse splits that lack a class or, for a regression, two different numbers.

    Args:
        rows: all rows with the splits that the data gives.
        splits: the drawn splits.
        labels: names of the model's outputs.
        params: the section.

    Raises:
        SmallClassError: the sentence names every class that is missing somewhere, its rows, and what to do.
    """
    if KINDS[params.task].form == "number":
        constant = _constant_splits(splits)
        if constant:
            raise SmallClassError(_constant_sentence(rows, constant, labels, params))
        return
    missing = missing_classes(splits, labels, params)
    if missing:
        raise SmallClassError(_sentence(rows, missing, labels, params))


def find_split(rows: Sequence[Row], labels: Names, params: Prepare) -> tuple[Split, SplitRows]:
    """Find the section `split` that puts every class into every split, as far as the rows allow, and draw with it."""
    if not KINDS[params.task].has_classes:
        return _find_common_seed(rows, labels, params)
    seeds, split_rows = find_class_seeds(rows, labels, params)
    return params.split.model_copy(update={"class_seeds": seeds}), split_rows


def _find_common_seed(rows: Sequence[Row], labels: Names, params: Prepare) -> tuple[Split, SplitRows]:
    """Find the least common seed whose splits pass the checks, for a task without classes."""
    first: tuple[Split, SplitRows] | None = None
    for seed in (params.split.seed, *range(_COMMON_SEEDS)):
        split = params.split.model_copy(update={"seed": seed})
        split_rows = draw_split_rows(rows, params.model_copy(update={"split": split}))
        first = first or (split, split_rows)
        constant = _constant_splits(split_rows.splits) if KINDS[params.task].form == "number" else []
        if not constant and not missing_classes(split_rows.splits, labels, params):
            return split, split_rows
    assert first is not None
    return first


def _constant_splits(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """List the splits without two different numbers."""
    return [split for split in LABELLED if len({row.label for row in splits[split]}) < 2]


def find_class_seeds(rows: Sequence[Row], labels: Names, params: Prepare) -> tuple[dict[str | int, int], SplitRows]:
    """Find `prepare.split.class_seeds` that put every class into every split, as far as possible, and draw with them.

    A class that the common seed leaves out of a split gets a seed of its own: the least one that gives every split at
    least half of its share. The rows of all other classes stay where they are.
    """
    labels_by_name = {normal_label(label): label for label in KINDS[params.task].class_names(labels)}
    search = _SeedSearch(rows, params)
    for turn in range(_ROUNDS):
        split_rows = draw_split_rows(rows, params)
        seeds = {normal_label(name): seed for name, seed in params.split.class_seeds.items()}
        missing = {
            normal_label(label): counts for label, counts in missing_classes(split_rows.splits, labels, params).items()
        }
        solvable = [name for name, counts in missing.items() if search.is_solvable(name, counts)]
        if turn == _ROUNDS - 1 or not search.improve(seeds, solvable):
            break
        known = {labels_by_name[name]: seed for name, seed in seeds.items() if name in labels_by_name}
        params = with_seeds(params, known)
    return dict(params.split.class_seeds), split_rows


def missing_classes(
    splits: Mapping[str, Sequence[Row]], labels: Names, params: Prepare
) -> dict[str | int, dict[str, int]]:
    """Map each class that is missing in train, dev or test to its number of rows in each."""
    counts = {split: class_counts(splits[split], params.task) for split in LABELLED}
    classes = KINDS[params.task].class_names(labels)
    rows = {label: {split: counts[split][normal_label(label)] for split in LABELLED} for label in classes}
    return {label: per_split for label, per_split in rows.items() if not all(per_split.values())}


def with_seeds(params: Prepare, seeds: Mapping[str | int, int]) -> Prepare:
    """Copy the section with these seeds of classes."""
    return params.model_copy(update={"split": params.split.model_copy(update={"class_seeds": dict(seeds)})})


class _SeedSearch:
    """Searches the seeds of classes. It only draws splits; it does not look for copies and near copies."""

    def __init__(self, rows: Sequence[Row], params: Prepare) -> None:
        target = KINDS[params.task]
        self._split: Split = params.split
        self._test, self._dev = drawn_shares([row.split for row in rows], params.split)
        # Each text counts once. Copies whose classes differ will be removed, so they count for no class.
        texts: dict[str, tuple[str, tuple[str, ...]]] = {}
        for row in rows:
            if row.label is not None:
                names = target.classes(row.label)
                _, known = texts.setdefault(row.key, (row.split, names))
                texts[row.key] = (row.split, names if known == names else ())
        self._texts = texts
        self._by_class: dict[str, list[str]] = {}
        for key, (_, names) in texts.items():
            for name in names:
                self._by_class.setdefault(name, []).append(key)

    def is_solvable(self, name: str, counts: Mapping[str, int]) -> bool:
        """Whether all splits that lack the class are drawn, and enough of its rows are."""
        drawn = self._drawn_rows(name)
        needed = self._needed(len(drawn))
        absent = {split for split, rows in counts.items() if not rows}
        return len(needed) > 1 and absent <= needed.keys() and len(drawn) >= len(needed)

    def improve(self, seeds: dict[str, int], names: Sequence[str]) -> bool:
        """Give each class the next seed that puts it into every split, in place, and say whether any changed."""
        before = dict(seeds)
        # The rarest class first: it decides about the rows that it shares with other classes.
        for name in sorted(names, key=lambda name: (len(self._by_class.get(name, ())), name)):
            seed = self._next_seed(name, seeds)
            if seed is not None:
                seeds[name] = seed
        return seeds != before

    def _drawn_rows(self, name: str) -> list[str]:
        return [key for key in self._by_class.get(name, ()) if self._texts[key][0] in (AUTO, "train")]

    def _next_seed(self, name: str, seeds: Mapping[str, int]) -> int | None:
        """Find the least seed after the class's present one that puts it into every split."""
        drawn = self._drawn_rows(name)
        needed = self._needed(len(drawn))
        first = seeds.get(name, -1) + 1
        for seed in range(first, first + _CLASS_SEEDS):
            tried_seeds = {**seeds, name: seed}
            counts = Counter(self._drawn(key, tried_seeds) for key in drawn)
            if all(counts[split] >= rows for split, rows in needed.items()):
                return seed
        return None

    def _drawn(self, key: str, seeds: Mapping[str, int]) -> str:
        position = hash_position(key, row_seed(self._texts[key][1], seeds, self._split.seed))
        return drawn_split(position, self._test, self._dev, self._split.test)

    def _needed(self, rows: int) -> dict[str, int]:
        """Count the rows that each drawn split needs: half of its share, at least one."""
        shares = {"train": 1 - self._test - self._dev, "dev": self._dev, "test": self._test}
        return {split: max(1, int(rows * share / 2)) for split, share in shares.items() if share}


# --- the sentence -----------------------------------------------------------------------------------------------------


def _sentence(
    rows: Sequence[Row], missing: Mapping[str | int, Mapping[str, int]], labels: Names, params: Prepare
) -> str:
    """Name every class that a split lacks, and what to do about it."""
    split, split_rows = find_split(rows, labels, params)
    unsolved = missing_classes(split_rows.splits, labels, params)
    totals = {label: sum(counts.values()) for label, counts in missing.items()}
    few = [label for label in missing if label in unsolved and totals[label] < FEWEST_ROWS]
    others = [label for label in missing if label in unsolved and totals[label] >= FEWEST_ROWS]
    clauses = []
    if few:
        clauses.append(
            f"too few rows in {_classes(few, missing)}: a class needs {FEWEST_ROWS} different rows at least, one each "
            "for train, dev and test; give them more, or leave them out"
        )
    if others:
        clauses.append(
            f"a split that the data gives, or the removal of near copies, leaves out {_classes(others, missing)}; "
            "give that split rows of each class, set `split: draw` in prepare.tables (`potstill init --split draw`), "
            "or set prepare.near_duplicate to null"
        )
    solved = [label for label in missing if label not in unsolved]
    if solved:
        seeds = as_yaml(split.class_seeds)
        remedy = (
            f"prepare.split.seed to {split.seed}"
            if not KINDS[params.task].has_classes
            else f"prepare.split.class_seeds to {seeds}, which moves the rows of these classes alone"
        )
        clauses.append(f"the draw leaves out {_classes(solved, missing)}; set {remedy}")
    return "; ".join(clauses)


def _constant_sentence(rows: Sequence[Row], constant: Sequence[str], labels: Names, params: Prepare) -> str:
    """Name every split without two different numbers, and what to do about it."""
    split, split_rows = _find_common_seed(rows, labels, params)
    remedy = f"; set prepare.split.seed to {split.seed}"
    if _constant_splits(split_rows.splits):
        fewest = 2 * len(LABELLED)
        remedy = f": each split needs two, so give {fewest} different rows at least, better 20"
    return f"no two different numbers are in {', '.join(constant)}{remedy}"


def _classes(labels: Sequence[str | int], missing: Mapping[str | int, Mapping[str, int]]) -> str:
    shown = ", ".join(_class(label, missing[label]) for label in labels)
    return f"{'the class' if len(labels) == 1 else f'{len(labels)} classes:'} {shown}"


def _class(label: str | int, counts: Mapping[str, int]) -> str:
    rows = sum(counts.values())
    *first, last = (split for split in LABELLED if not counts[split])
    absent = f"{', '.join(first)} or {last}" if first else last
    return f"{label!r} ({rows} row{'' if rows == 1 else 's'}, none in {absent})"
