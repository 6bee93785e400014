"""The names that a saved model gives its outputs, and how they are brought together with the data's labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.config.yaml_file import as_yaml
from potstill.errors import LabelCountError
from potstill.labels.names import LabelNames

LabelMap = Mapping[str | int, str | int]
# What transformers calls an output that was given no name.
_UNNAMED = "LABEL_{}"


class LabelNamesError(LabelCountError):
    """A fine-tuned teacher has as many labels as the data, but calls them otherwise."""


@dataclass(frozen=True)
class OutputNames:
    """What a model's outputs are called, in their order.

    Attributes:
        names: one for each output; `LABEL_<n>` where config.json gives none.
        source: the key of config.json that they are from, `id2label` or `label2id`; None: they have no names.
    """

    names: tuple[str, ...]
    source: str | None = None


def output_names(config: Mapping[str, Any], where: str, outputs: int | None = None) -> OutputNames:
    """The names in a config.json.

    Args:
        config: id2label, label2id or neither; a key whose names are all `LABEL_<n>` names nothing.
        where: what a sentence calls the model.
        outputs: rows of the output layer, where they are known.

    Raises:
        LabelCountError: the names are incomplete, given twice, or the two keys contradict each other.
    """
    by_index = _by_index(_mapping(config, "id2label", where), where)
    by_name = _by_name(_mapping(config, "label2id", where), where)
    chosen = by_index if by_index and not unnamed(by_index) else by_name or by_index
    if unnamed(chosen):
        count = outputs or len(chosen) or int(config.get("num_labels") or 2)
        return OutputNames(tuple(_UNNAMED.format(index) for index in range(count)))
    _check_names(chosen, where)
    if outputs is not None and outputs != len(chosen):
        raise LabelCountError(
            f"config.json of {where} names {len(chosen)} labels ({', '.join(chosen[:8])}), but its output layer has "
            f"{outputs} rows; name each of them in id2label"
        )
    if by_index and by_name and not unnamed(by_index) and not unnamed(by_name) and not _same(by_index, by_name):
        raise LabelCountError(
            f"id2label ({', '.join(by_index[:8])}) and label2id ({', '.join(by_name[:8])}) in config.json of {where} "
            "contradict each other; correct or remove the wrong one"
        )
    return OutputNames(tuple(chosen), "id2label" if chosen is by_index else "label2id")


def unnamed(names: Sequence[str]) -> bool:
    """Whether a teacher's labels never had names: those that transformers counts are none."""
    return all(name == _UNNAMED.format(index) for index, name in enumerate(names))


def match_labels(
    names: Sequence[str],
    labels: Sequence[str | int],
    where: str,
    label_map: LabelMap | None = None,
    key: str = "teacher",
) -> list[int]:
    """For each of our labels its index among a teacher's names.

    Names match as they are, else by their normal form where that belongs to one name and one label alone.

    Args:
        names: of the teacher's outputs.
        labels: of the data.
        where: what a sentence calls the teacher.
        label_map: the data's label for a teacher's name; for entities also of a type, as PERSON: PER.
        key: of params that describes the teacher.

    Raises:
        LabelNamesError: the names are real names and differ.
        LabelCountError: the counts differ, or the map has a name that neither side has.
    """
    wanted = [str(label) for label in labels]
    if len(names) != len(wanted):
        raise LabelCountError(
            f"the teacher in {where} has {len(names)} labels ({', '.join(names[:8])}), the data has {len(wanted)} "
            f"({', '.join(wanted[:8])}); give a teacher of the same task or set teacher.fine_tuned to false"
        )
    if label_map:
        names = _mapped(names, wanted, where, label_map, key)
    elif unnamed(names):
        return list(range(len(names)))  # prepare.labels gives the order
    order = _matched(names, wanted)
    missing = [label for label, index in zip(wanted, order, strict=True) if index is None]
    if missing:
        raise LabelNamesError(
            f"the teacher in {where} does not know the label {missing[0]!r}; its labels are {', '.join(names[:8])}, "
            f"the data's {', '.join(wanted[:8])}; say in {key}.label_map which is which"
        )
    return [index for index in order if index is not None]


def order_by_words(names: Sequence[str], labels: Sequence[str | int]) -> list[int] | None:
    """For each name the index of the label that is a word of it, as 1 is of "1 star"; None: not each has one."""
    words = [re.findall(r"\w+", name.casefold()) for name in names]
    keys = [str(label).strip().casefold() for label in labels]
    order = [[place for place, key in enumerate(keys) if key in own] for own in words]
    found = [places[0] for places in order if len(places) == 1]
    return found if len(set(found)) == len(labels) == len(names) else None


def _matched(names: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """For each label the index of its name; None: it has none, or shares it with a label that is more like it."""
    known, places = LabelNames(names), {name: index for index, name in enumerate(names)}
    found = [known.find(label) for label in labels]
    return [
        places[str(name)] if name is not None and (name == label or found.count(name) == 1) else None
        for name, label in zip(found, labels, strict=True)
    ]


def _mapped(names: Sequence[str], labels: Sequence[str], where: str, label_map: LabelMap, key: str) -> list[str]:
    """The teacher's names as the data's labels; a name that is not mapped stays as it is."""
    given = {str(name): str(label) for name, label in label_map.items()}
    types = [name.partition("-")[2] for name in names]
    unknown = next((name for name in given if name not in names and name not in types), None)
    if unknown is not None:
        raise LabelCountError(
            f"{key}.label_map names {unknown!r}, which the teacher in {where} does not have; its labels are "
            f"{', '.join(names[:8])}"
        )
    mapped = [given.get(name, _with_type(name, given)) for name in names]
    strange = next((label for label in mapped if label not in labels and label in given.values()), None)
    if strange is not None:
        raise LabelCountError(
            f"{key}.label_map leads to {strange!r}, which is no label of the data; it has {', '.join(labels[:8])}"
        )
    return mapped


def _with_type(name: str, given: Mapping[str, str]) -> str:
    """A tag with the type that the map gives for its own."""
    mark, dash, kind = name.partition("-")
    return f"{mark}-{given[kind]}" if dash and kind in given else name


def _mapping(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise LabelCountError(f"{key} in config.json of {where} is no mapping; write it as the model's class saves it")
    return {str(name): item for name, item in value.items()}


def _by_index(given: Mapping[str, Any], where: str) -> list[str]:
    """The names of id2label in order."""
    return _in_order([(index, str(name)) for index, name in given.items()], "id2label", where)


def _by_name(given: Mapping[str, Any], where: str) -> list[str]:
    """The names of label2id in order."""
    return _in_order([(index, name) for name, index in given.items()], "label2id", where)


def _in_order(pairs: Sequence[tuple[Any, str]], key: str, where: str) -> list[str]:
    try:
        found = dict(sorted((int(index), name) for index, name in pairs))
    except (TypeError, ValueError):
        found = {}
    if list(found) != list(range(len(pairs))):
        raise LabelCountError(
            f"{key} in config.json of {where} does not number its labels from 0 to {len(pairs) - 1}, each once; "
            "correct it, or remove it to give the order by prepare.labels"
        )
    return list(found.values())


def _check_names(names: Sequence[str], where: str) -> None:
    nameless = [index for index, name in enumerate(names) if not name.strip() or name == _UNNAMED.format(index)]
    if nameless:
        raise LabelCountError(
            f"config.json of {where} names some of its labels and leaves others without a name "
            f"({as_yaml(dict(enumerate(names)))}); name all of them in id2label, or none"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LabelCountError(
            f"config.json of {where} gives the name {twice!r} to several labels "
            f"({as_yaml(dict(enumerate(names)))}); give each label in id2label a name of its own"
        )


def _same(first: Sequence[str], second: Sequence[str]) -> bool:
    return len(first) == len(second) and _matched(first, second) == [*range(len(first))]
