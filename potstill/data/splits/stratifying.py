"""Every class in every split: which classes a draw leaves out, and the seeds with which it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from potstill.config.base import LABELLED, TaskKind
from potstill.config.prepare_params import Prepare, Split
from potstill.config.yaml_file import as_yaml
from potstill.data.rows import Divided, Row, class_counts, divide
from potstill.data.splits.split_names import AUTO
from potstill.data.splits.splitting import drawn_shares, drawn_split, position, row_seed
from potstill.data.targets import TARGETS, Labels
from potstill.errors import SmallClassError
from potstill.labels.names import normal_label

# One row in each of train, dev and test.
FEWEST_ROWS = len(LABELLED)
# Seeds tried for a class; three rows of one class meet three splits with one seed in twelve.
_SEEDS = 2_000
# Draws of all rows until no class is left out; the first does where no two classes share rows or near copies.
_ROUNDS = 8

# The same of tasks that have none, where the common seed is another.
_DRAWS = 40
_WITHOUT_CLASSES: tuple[TaskKind, ...] = ("regression", "question_answering")


def check_classes(rows: Sequence[Row], splits: Mapping[str, Sequence[Row]], labels: Labels, params: Prepare) -> None:
    """Refuse splits that lack a class, or numbers to tell apart.

    Args:
        rows: all rows with the splits that the data gives.
        splits: what the draw made of them.
        labels: names of the model's outputs.
        params: the section.

    Raises:
        SmallClassError: it names every class that is missing somewhere, its rows, and what puts it right.
    """
    if params.task == "regression":
        poor = _without_numbers(splits)
        if poor:
            raise SmallClassError(_sentence_of_numbers(rows, poor, labels, params))
        return
    missing = missing_classes(splits, labels, params)
    if missing:
        raise SmallClassError(_sentence(rows, missing, labels, params))


def fitting_split(rows: Sequence[Row], labels: Labels, params: Prepare) -> tuple[Split, Divided]:
    """The section `split` with which every class is in every split, as far as the rows allow it, and these splits."""
    if params.task in _WITHOUT_CLASSES:
        return _fitting_seed(rows, labels, params)
    seeds, divided = class_seeds(rows, labels, params)
    return params.split.model_copy(update={"class_seeds": seeds}), divided


def _fitting_seed(rows: Sequence[Row], labels: Labels, params: Prepare) -> tuple[Split, Divided]:
    """Where there are no classes, the least seed of the draw that does."""
    first: tuple[Split, Divided] | None = None
    for seed in (params.split.seed, *range(_DRAWS)):
        split = params.split.model_copy(update={"seed": seed})
        divided = divide(rows, params.model_copy(update={"split": split}))
        first = first or (split, divided)
        poor = _without_numbers(divided.splits) if params.task == "regression" else []
        if not poor and not missing_classes(divided.splits, labels, params):
            return split, divided
    assert first is not None
    return first


def _without_numbers(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """Splits without two numbers that differ."""
    return [split for split in LABELLED if len({row.label for row in splits[split]}) < 2]


def class_seeds(rows: Sequence[Row], labels: Labels, params: Prepare) -> tuple[dict[str | int, int], Divided]:
    """`prepare.split.class_seeds` with which every class that can be is in every split, and the splits they make.

    A class that the common seed leaves out of a split gets a seed of its own: the least with which no split has less
    than half of its share. The rows of all other classes stay where they are.
    """
    named = {normal_label(label): label for label in TARGETS[params.task].class_names(labels)}
    search = _Search(rows, params)
    for turn in range(_ROUNDS):
        divided = divide(rows, params)
        seeds = {normal_label(name): seed for name, seed in params.split.class_seeds.items()}
        missing = missing_classes(divided.splits, labels, params)
        hopeful = [normal_label(name) for name, counts in missing.items() if search.hopeful(normal_label(name), counts)]
        if turn == _ROUNDS - 1 or not search.improve(seeds, hopeful):
            break
        params = with_seeds(params, {named[name]: seed for name, seed in seeds.items() if name in named})
    return dict(params.split.class_seeds), divided


def missing_classes(
    splits: Mapping[str, Sequence[Row]], labels: Labels, params: Prepare
) -> dict[str | int, dict[str, int]]:
    """Each class that is not in train, dev and test -> its rows in each."""
    counts = {split: class_counts(splits[split], params.task) for split in LABELLED}
    classes = TARGETS[params.task].class_names(labels)
    rows = {label: {split: counts[split][normal_label(label)] for split in LABELLED} for label in classes}
    return {label: per_split for label, per_split in rows.items() if not all(per_split.values())}


def with_seeds(params: Prepare, seeds: Mapping[str | int, int]) -> Prepare:
    """The section with these seeds of classes."""
    return params.model_copy(update={"split": params.split.model_copy(update={"class_seeds": dict(seeds)})})


class _Search:
    """Looks for the seeds of classes by the draw alone, without copies and near copies."""

    def __init__(self, rows: Sequence[Row], params: Prepare) -> None:
        target = TARGETS[params.task]
        self._split: Split = params.split
        self._test, self._dev = drawn_shares([row.split for row in rows], params.split)
        # A text once. Copies that differ in their classes are removed, and count for none.
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

    def hopeful(self, name: str, counts: Mapping[str, int]) -> bool:
        """Whether the splits that lack a class are drawn, and rows enough of it are drawn ones."""
        drawn = self._drawn_rows(name)
        needed = self._needed(len(drawn))
        absent = {split for split, rows in counts.items() if not rows}
        return len(needed) > 1 and absent <= needed.keys() and len(drawn) >= len(needed)

    def improve(self, seeds: dict[str, int], names: Sequence[str]) -> bool:
        """Give each class the next seed with which it is in every split, in place; whether any changed."""
        before = dict(seeds)
        # The rarest first: of several labels, it decides about the rows that it shares.
        for name in sorted(names, key=lambda name: (len(self._by_class.get(name, ())), name)):
            seed = self._next_seed(name, seeds)
            if seed is not None:
                seeds[name] = seed
        return seeds != before

    def _drawn_rows(self, name: str) -> list[str]:
        return [key for key in self._by_class.get(name, ()) if self._texts[key][0] in (AUTO, "train")]

    def _next_seed(self, name: str, seeds: Mapping[str, int]) -> int | None:
        """The least seed after a class's present one that will do."""
        drawn = self._drawn_rows(name)
        needed = self._needed(len(drawn))
        first = seeds.get(name, -1) + 1
        for seed in range(first, first + _SEEDS):
            tried = {**seeds, name: seed}
            counts = Counter(self._drawn(key, tried) for key in drawn)
            if all(counts[split] >= rows for split, rows in needed.items()):
                return seed
        return None

    def _drawn(self, key: str, seeds: Mapping[str, int]) -> str:
        place = position(key, row_seed(self._texts[key][1], seeds, self._split.seed))
        return drawn_split(place, self._test, self._dev, self._split.test)

    def _needed(self, rows: int) -> dict[str, int]:
        """Half of the share of each split that is drawn, one row at least."""
        shares = {"train": 1 - self._test - self._dev, "dev": self._dev, "test": self._test}
        return {split: max(1, int(rows * share / 2)) for split, share in shares.items() if share}


# --- the sentence -----------------------------------------------------------------------------------------------------


def _sentence(
    rows: Sequence[Row], missing: Mapping[str | int, Mapping[str, int]], labels: Labels, params: Prepare
) -> str:
    """Names every class that a split lacks."""
    split, divided = fitting_split(rows, labels, params)
    still = missing_classes(divided.splits, labels, params)
    totals = {label: sum(counts.values()) for label, counts in missing.items()}
    few = [label for label in missing if label in still and totals[label] < FEWEST_ROWS]
    others = [label for label in missing if label in still and totals[label] >= FEWEST_ROWS]
    clauses = []
    if few:
        clauses.append(
            f"too few rows in {_classes(few, missing)}: a class needs {FEWEST_ROWS} different rows at least, one each "
            "for train, dev and test; give them more, or leave them out"
        )
    if others:
        clauses.append(
            f"a split that the data gives, or the removal of near copies, leaves out {_classes(others, missing)}; "
            "give that split rows of each class, or set prepare.near_duplicate to null"
        )
    drawn = [label for label in missing if label not in still]
    if drawn:
        seeds = as_yaml(split.class_seeds)
        remedy = (
            f"prepare.split.seed to {split.seed}"
            if params.task in _WITHOUT_CLASSES
            else f"prepare.split.class_seeds to {seeds}, which moves the rows of these classes alone"
        )
        clauses.append(f"the draw leaves out {_classes(drawn, missing)}; set {remedy}")
    return "; ".join(clauses)


def _sentence_of_numbers(rows: Sequence[Row], poor: Sequence[str], labels: Labels, params: Prepare) -> str:
    """Names every split without two different numbers."""
    split, divided = _fitting_seed(rows, labels, params)
    remedy = f"; set prepare.split.seed to {split.seed}"
    if _without_numbers(divided.splits):
        fewest = 2 * len(LABELLED)
        remedy = f": each split needs two, so give {fewest} different rows at least, better 20"
    return f"no two different numbers are in {', '.join(poor)}{remedy}"


def _classes(labels: Sequence[str | int], missing: Mapping[str | int, Mapping[str, int]]) -> str:
    shown = ", ".join(_class(label, missing[label]) for label in labels)
    return f"{'the class' if len(labels) == 1 else f'{len(labels)} classes:'} {shown}"


def _class(label: str | int, counts: Mapping[str, int]) -> str:
    rows = sum(counts.values())
    *first, last = (split for split in LABELLED if not counts[split])
    absent = f"{', '.join(first)} or {last}" if first else last
    return f"{label!r} ({rows} row{'' if rows == 1 else 's'}, none in {absent})"
