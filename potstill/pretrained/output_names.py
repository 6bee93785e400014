"""The names of a saved model's outputs, and matching them to the labels of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from potstill.config.yaml_file import as_yaml
from potstill.errors import LabelCountError
from potstill.labels.names import LabelNames

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LabelMap = Mapping[str | int, str | int]
# The name that transformers gives to an output without a name.
_UNNAMED = "LABEL_{}"


class LabelNamesError(LabelCountError):
    """A fine-tuned teacher has as many labels as the data, but under different names."""


@dataclass(frozen=True)
class OutputNames:
    """The names of a model's outputs, in their order.

    Attributes:
        names: one name for each output; `LABEL_<n>` if config.json has none.
        source: the key of config.json with the names, `id2label` or `label2id`; None if there are no names.
    """

    names: tuple[str, ...]
    source: str | None = None


def output_names(config: Mapping[str, Any], where: str, outputs: int | None = None) -> OutputNames:
    """Read the names of a model's outputs from its config.json.

    Args:
        config: content of config.json. A key id2label or label2id whose names are all `LABEL_<n>` is ignored.
        where: name of the model for messages.
        outputs: rows of the output layer; None if not known.

    Raises:
        LabelCountError: the names are incomplete or given twice, or the two keys contradict each other.
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


def names_of_outputs(model: PreTrainedModel) -> list[str]:
    """List the names of a loaded model's outputs in their order."""
    return [str(name) for _, name in sorted(model.config.id2label.items())]


def unnamed(names: Sequence[str]) -> bool:
    """Whether a teacher's labels have no names, only the numbers that transformers gives them."""
    return all(name == _UNNAMED.format(index) for index, name in enumerate(names))


def match_labels(
    names: Sequence[str],
    labels: Sequence[str | int],
    where: str,
    label_map: LabelMap | None = None,
    key: str = "teacher",
) -> list[int]:
    """Match the labels of the data to the names of a teacher's outputs.

    Names match if they are equal, or else if their normal forms are equal and belong to one name and one label only.

    Args:
        names: names of the teacher's outputs.
        labels: labels of the data.
        where: name of the teacher for messages.
        label_map: teacher's name -> label of the data; for entities also type -> type, such as PERSON: PER.
        key: key of params that describes the teacher, for messages.

    Returns:
        For each label of the data its index among the teacher's outputs.

    Raises:
        LabelNamesError: the teacher's labels have names, which differ from the data's.
        LabelCountError: the numbers of labels differ, or the map has a name that neither side has.
    """
    data_labels = [str(label) for label in labels]
    if len(names) != len(data_labels):
        raise LabelCountError(
            f"the teacher in {where} has {len(names)} labels ({', '.join(names[:8])}), the data has {len(data_labels)} "
            f"({', '.join(data_labels[:8])}); give a teacher of the same task or set teacher.fine_tuned to false"
        )
    if label_map:
        names = _mapped(names, data_labels, where, label_map, key)
    elif unnamed(names):
        return list(range(len(names)))  # the order is that of prepare.labels
    order = _matched(names, data_labels)
    missing = [label for label, index in zip(data_labels, order, strict=True) if index is None]
    if missing:
        raise LabelNamesError(
            f"the teacher in {where} does not know the label {missing[0]!r}; its labels are {', '.join(names[:8])}, "
            f"the data's {', '.join(data_labels[:8])}; say in {key}.label_map which is which"
        )
    return [index for index in order if index is not None]


def order_by_words(names: Sequence[str], labels: Sequence[str | int]) -> list[int] | None:
    """Match each name to the label that is one of its words, as the label 1 is a word of "1 star".

    Returns:
        For each name the index of its label; None unless names and labels match one to one.
    """
    words = [re.findall(r"\w+", name.casefold()) for name in names]
    keys = [str(label).strip().casefold() for label in labels]
    candidates = [[index for index, key in enumerate(keys) if key in name_words] for name_words in words]
    order = [indices[0] for indices in candidates if len(indices) == 1]
    return order if len(set(order)) == len(labels) == len(names) else None


def _matched(names: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """For each label the index of its name; None if there is none, or another label matches the name better."""
    lookup = LabelNames(names)
    indices = {name: index for index, name in enumerate(names)}
    matches = [lookup.find(label) for label in labels]
    return [
        indices[str(name)] if name is not None and (name == label or matches.count(name) == 1) else None
        for name, label in zip(matches, labels, strict=True)
    ]


def _mapped(names: Sequence[str], labels: Sequence[str], where: str, label_map: LabelMap, key: str) -> list[str]:
    """Translate the teacher's names to labels of the data; a name without an entry stays the same."""
    mapping = {str(name): str(label) for name, label in label_map.items()}
    types = [name.partition("-")[2] for name in names]
    unknown = next((name for name in mapping if name not in names and name not in types), None)
    if unknown is not None:
        raise LabelCountError(
            f"{key}.label_map names {unknown!r}, which the teacher in {where} does not have; its labels are "
            f"{', '.join(names[:8])}"
        )
    mapped = [mapping.get(name, _with_type(name, mapping)) for name in names]
    not_in_data = next((label for label in mapped if label not in labels and label in mapping.values()), None)
    if not_in_data is not None:
        raise LabelCountError(
            f"{key}.label_map leads to {not_in_data!r}, which is no label of the data; it has {', '.join(labels[:8])}"
        )
    return mapped


def _with_type(name: str, mapping: Mapping[str, str]) -> str:
    """Translate the type of a tag, as in B-PERSON -> B-PER."""
    mark, dash, kind = name.partition("-")
    return f"{mark}-{mapping[kind]}" if dash and kind in mapping else name


def _mapping(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise LabelCountError(f"{key} in config.json of {where} is no mapping; write it as the model's class saves it")
    return {str(name): item for name, item in value.items()}


def _by_index(id2label: Mapping[str, Any], where: str) -> list[str]:
    """The names of id2label in order."""
    return _in_order([(index, str(name)) for index, name in id2label.items()], "id2label", where)


def _by_name(label2id: Mapping[str, Any], where: str) -> list[str]:
    """The names of label2id in order."""
    return _in_order([(index, name) for name, index in label2id.items()], "label2id", where)


def _in_order(pairs: Sequence[tuple[Any, str]], key: str, where: str) -> list[str]:
    try:
        by_index = dict(sorted((int(index), name) for index, name in pairs))
    except (TypeError, ValueError):
        by_index = {}
    if list(by_index) != list(range(len(pairs))):
        raise LabelCountError(
            f"{key} in config.json of {where} does not number its labels from 0 to {len(pairs) - 1}, each once; "
            "correct it, or remove it to give the order by prepare.labels"
        )
    return list(by_index.values())


def _check_names(names: Sequence[str], where: str) -> None:
    unnamed_labels = [index for index, name in enumerate(names) if not name.strip() or name == _UNNAMED.format(index)]
    if unnamed_labels:
        raise LabelCountError(
            f"config.json of {where} names some of its labels and leaves others without a name "
            f"({as_yaml(dict(enumerate(names)))}); name all of them in id2label, or none"
        )
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise LabelCountError(
            f"config.json of {where} gives the name {duplicate!r} to several labels "
            f"({as_yaml(dict(enumerate(names)))}); give each label in id2label its own name"
        )


def _same(first: Sequence[str], second: Sequence[str]) -> bool:
    return len(first) == len(second) and _matched(first, second) == [*range(len(first))]
