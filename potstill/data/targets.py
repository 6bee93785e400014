"""What a task's labels are to the prepare stage: how copies agree, what a split needs, the column they become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from potstill.config import LabelColumns, LabelRanges, Prepare, TaskKind
from potstill.data.labels import Value, label_set, normal_label
from potstill.data.tags import entities_of, split_tag, tag_set, types_named
from potstill.errors import LabelError, OneClassError, SmallClassError

if TYPE_CHECKING:
    import pyarrow as pa

Labels = Sequence[str | int]
# The one output of a regression.
SCORE = "score"
# What a report counts of questions.
ANSWER, NO_ANSWER = "answer", "no answer"


@dataclass(frozen=True)
class Target:
    """The labels of one task.

    Attributes:
        settle: the label of copies of a text, from theirs, all given; None: no one knows which is right.
        check: raises SmallClassError where train, dev or test lacks something to learn from or to judge by.
        counts: of report.json, for the labels of a split.
        column: labels, or None where there is none, as the column `label` of `data/prepared`.
    """

    settle: Callable[[Sequence[Value]], Value | None]
    check: Callable[[Mapping[str, Sequence[Any]], Labels], None]
    counts: Callable[[Sequence[Any], Labels], dict[str, Any]]
    column: Callable[[Sequence[Any], Labels], pa.Array]


def names_of(values: Iterable[Any], params: Prepare) -> list[str | int]:
    """The label set in the order of the model's outputs: as params name it, else what was found."""
    if params.task == "regression":
        return [SCORE]
    if params.task == "token_classification":
        return list(_tag_names(values, params.labels))
    if params.task == "question_answering":
        return ["start", "end"]
    if isinstance(params.label, LabelColumns):
        return list(params.label.columns)
    if isinstance(params.label, LabelRanges):
        return list(params.label.ranges)
    if params.task == "multi_label":
        return label_set((key for keys in values for key in keys), params.labels)
    return label_set(values, params.labels)


def check_varied(values: Sequence[Any]) -> None:
    """Refuse labels that are all alike.

    Raises:
        OneClassError: they are.
    """
    classes = set(values)
    if len(classes) == 1:
        label = classes.pop()
        shown = ", ".join(label) or "none" if isinstance(label, tuple) else label
        raise OneClassError(
            f"all {len(values)} labelled rows carry the label {shown!r}; a classifier needs two: check prepare.label"
        )


# --- one class of several ---------------------------------------------------------------------------------------------


def _agreed(values: Sequence[Value]) -> Value | None:
    return values[0] if len(set(values)) == 1 else None


def _check_classes(splits: Mapping[str, Sequence[Any]], labels: Labels) -> None:
    _check_counts({split: Counter(values) for split, values in splits.items()}, labels)


def _check_counts(counts: Mapping[str, Mapping[str, int]], labels: Labels) -> None:
    """Every class in every labelled split."""
    for label in labels:
        per_split = {split: counts[split].get(normal_label(label), 0) for split in ("train", "dev", "test")}
        if all(per_split.values()):
            continue
        missing = next(split for split, count in per_split.items() if not count)
        total = sum(per_split.values())
        raise SmallClassError(
            f"the class {label!r} has {total} row{'' if total == 1 else 's'} and none of them in {missing}; "
            "give it more rows, leave it out, or change the shares or the seed of prepare.split"
        )


def _count_classes(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    counts = Counter(values)
    classes = {str(label): counts[normal_label(label)] for label in labels}
    return {"classes": classes if any(classes.values()) else {}}


def _class_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    index = {normal_label(label): at for at, label in enumerate(labels)}
    return pa.array([None if value is None else index[value] for value in values], pa.int64())


# --- any of several labels --------------------------------------------------------------------------------------------


def _flat(values: Sequence[Any]) -> list[str]:
    return [key for keys in values for key in keys or ()]


def _check_labels(splits: Mapping[str, Sequence[Any]], labels: Labels) -> None:
    _check_counts({split: Counter(_flat(values)) for split, values in splits.items()}, labels)


def _count_labels(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    return _count_classes(_flat(values), labels)


def _flags_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    keys = [normal_label(label) for label in labels]
    rows = [None if value is None else [int(key in value) for key in keys] for value in values]
    # Of no fixed size: Parquet cannot read those back where there are nulls.
    return pa.array(rows, pa.list_(pa.int8()))


# --- a number ---------------------------------------------------------------------------------------------------------


def _check_numbers(splits: Mapping[str, Sequence[Any]], labels: Labels) -> None:
    for split in ("train", "dev", "test"):
        if len(set(splits[split])) < 2:
            raise SmallClassError(
                f"{split} has {len(splits[split])} rows and no two different numbers among them; give more rows, or "
                "change the shares or the seed of prepare.split"
            )


def _count_numbers(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {}
    spread = {"mean": fmean(known), "deviation": pstdev(known), "lowest": min(known), "highest": max(known)}
    return {"numbers": {name: round(value, 6) for name, value in spread.items()}}


def _number_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.float32())


# --- entities ---------------------------------------------------------------------------------------------------------


def _types(values: Iterable[Any]) -> Iterator[str]:
    """The types of entities in each row."""
    for units in values:
        yield from {split_tag(unit.tag)[1] for unit in units or ()} - {""}


def _tag_names(values: Iterable[Any], declared: Labels | None) -> list[str]:
    """O, then B and I of each type."""
    found, known = set(_types(values)), [str(kind) for kind in declared or ()]
    if not found:
        raise OneClassError("none of the labelled rows has an entity; check prepare.label")
    if known and (unknown := sorted(found - set(known))):
        raise LabelError(
            f"the data has entities of type {unknown[0]!r}, which is not one of prepare.labels ({', '.join(known)}); "
            "declare the type, or correct the rows"
        )
    return tag_set(known or sorted(found))


def _check_entities(splits: Mapping[str, Sequence[Any]], labels: Labels) -> None:
    _check_counts({split: Counter(_types(values)) for split, values in splits.items()}, types_named(labels))


def _count_entities(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    """Rows with an entity of each type, as classes; and the entities of each."""
    tags = [[unit.tag for unit in units] for units in values if units is not None]
    entities = Counter(entity.type for row in tags for entity in entities_of(row))
    return _count_classes(list(_types(values)), types_named(labels)) | {"entities": dict(sorted(entities.items()))}


def _units_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    index = {str(tag): at for at, tag in enumerate(labels)}
    rows = [units and [[unit.start, unit.end, index[unit.tag]] for unit in units] for units in values]
    return pa.array(rows, pa.list_(pa.list_(pa.int32(), 3)))


# --- answers ----------------------------------------------------------------------------------------------------------


def _check_answers(splits: Mapping[str, Sequence[Any]], labels: Labels) -> None:
    counts = {split: Counter({ANSWER: sum(map(bool, values))}) for split, values in splits.items()}
    _check_counts(counts, [ANSWER])


def _count_answers(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    return _count_classes(
        [ANSWER if spans else NO_ANSWER for spans in values if spans is not None], [ANSWER, NO_ANSWER]
    )


def _spans_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    rows = [spans if spans is None else [[span.start, span.end] for span in spans] for spans in values]
    return pa.array(rows, pa.list_(pa.list_(pa.int32(), 2)))


TARGETS: dict[TaskKind, Target] = {
    "single_label": Target(_agreed, _check_classes, _count_classes, _class_column),
    "multi_label": Target(_agreed, _check_labels, _count_labels, _flags_column),
    # Raters of one text differ; their mean is the best guess.
    "regression": Target(fmean, _check_numbers, _count_numbers, _number_column),  # type: ignore[arg-type]
    "token_classification": Target(_agreed, _check_entities, _count_entities, _units_column),
    "question_answering": Target(_agreed, _check_answers, _count_answers, _spans_column),
}
