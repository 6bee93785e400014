"""What a task's labels are to the prepare stage: how copies agree, what a split needs, the column they become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from potstill.config.base import TaskKind
from potstill.config.prepare_params import LabelColumns, LabelRanges, Prepare
from potstill.errors import LabelError, OneClassError
from potstill.labels.names import Value, label_set, normal_label
from potstill.labels.tags import entities_of, split_tag, tag_set, types_named

if TYPE_CHECKING:
    import pyarrow as pa

Labels = Sequence[str | int]
# The one output of a regression.
SCORE = "score"
# Signs that people put between several labels in one cell.
_BETWEEN = ("|", ";", ",", "#", "/", "+", "&")
# What a report counts of questions.
ANSWER, NO_ANSWER = "answer", "no answer"


@dataclass(frozen=True)
class Target:
    """The labels of one task.

    Attributes:
        settle: the label of copies of a text, from theirs, all given; None: no one knows which is right.
        classes: of a label, those that train, dev and test all have to have; none of a number.
        class_names: all such classes, from the names of the model's outputs.
        counts: of report.json, for the labels of a split.
        column: labels, or None where there is none, as the column `label` of `data/prepared`.
    """

    settle: Callable[[Sequence[Value]], Value | None]
    classes: Callable[[Any], tuple[str, ...]]
    class_names: Callable[[Labels], Labels]
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
    keys = set(values) if params.task == "single_label" else {key for held in values for key in held}
    if params.labels is None:
        _ask_about_minus_one(keys)
        _ask_about_several(keys)
    return label_set(keys, params.labels)


def _ask_about_minus_one(keys: Set[str]) -> None:
    """Refuse -1 among classes from 0 on, where it mostly stands for "no label", until params say what it is."""
    others = sorted(set(keys) - {"-1"})
    if "-1" in keys and all(key.isdecimal() for key in others) and others != ["1"]:
        raise LabelError(
            f"the label -1 stands next to {', '.join(others[:5])}, and often means that a row has none; set "
            f"prepare.label.missing to [-1], or prepare.labels to [-1, {', '.join(others[:5])}] if it is a class"
        )


def _ask_about_several(keys: Set[str]) -> None:
    """Refuse a name that is put together of others, as several labels in one cell are, until params say what it is."""
    for key in sorted(keys):
        for sign in _BETWEEN:
            parts = [part.strip() for part in key.split(sign)]
            if len(parts) > 1 and keys >= {*parts}:
                raise LabelError(
                    f"the label {key!r} looks like several of the others; set prepare.task to multi_label and "
                    f"prepare.label.separator to {sign!r}, or list it in prepare.labels if it is one name"
                )


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


def _class(value: Any) -> tuple[str, ...]:
    return (value,)


def _all_names(labels: Labels) -> Labels:
    return labels


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


def _labels(value: Any) -> tuple[str, ...]:
    return tuple(value)


def _count_labels(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    return _count_classes(_flat(values), labels)


def _flags_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    keys = [normal_label(label) for label in labels]
    rows = [None if value is None else [int(key in value) for key in keys] for value in values]
    # Of no fixed size: Parquet cannot read those back where there are nulls.
    return pa.array(rows, pa.list_(pa.int8()))


# --- a number ---------------------------------------------------------------------------------------------------------


def _no_classes(value: Any) -> tuple[str, ...]:
    return ()


def _no_names(labels: Labels) -> Labels:
    return []


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


def _entity_types(value: Any) -> tuple[str, ...]:
    return tuple(sorted(_types([value])))


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


def _answer(value: Any) -> tuple[str, ...]:
    return (ANSWER,) if value else ()


def _answer_name(labels: Labels) -> Labels:
    return [ANSWER]


def _count_answers(values: Sequence[Any], labels: Labels) -> dict[str, Any]:
    return _count_classes(
        [ANSWER if spans else NO_ANSWER for spans in values if spans is not None], [ANSWER, NO_ANSWER]
    )


def _spans_column(values: Sequence[Any], labels: Labels) -> pa.Array:
    import pyarrow as pa

    rows = [spans if spans is None else [[span.start, span.end] for span in spans] for spans in values]
    return pa.array(rows, pa.list_(pa.list_(pa.int32(), 2)))


TARGETS: dict[TaskKind, Target] = {
    "single_label": Target(_agreed, _class, _all_names, _count_classes, _class_column),
    "multi_label": Target(_agreed, _labels, _all_names, _count_labels, _flags_column),
    # Raters of one text differ; their mean is the best guess.
    "regression": Target(fmean, _no_classes, _no_names, _count_numbers, _number_column),  # type: ignore[arg-type]
    "token_classification": Target(_agreed, _entity_types, types_named, _count_entities, _units_column),
    "question_answering": Target(_agreed, _answer, _answer_name, _count_answers, _spans_column),
}
