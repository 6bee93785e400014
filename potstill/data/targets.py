"""The labels of a dataset as a whole: the names of the outputs that learn them, and whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potstill.config.prepare_params import LabelColumns, LabelRanges, Prepare
from potstill.errors import OneClassError
from potstill.kinds.definitions.task_kinds import KINDS


def names_of(values: Sequence[Any], params: Prepare) -> list[str | int]:
    """Name the model's outputs in order: as params name them, else as the labels of the data do."""
    if isinstance(params.label, LabelColumns):
        return list(params.label.columns)
    if isinstance(params.label, LabelRanges):
        return list(params.label.ranges)
    return KINDS[params.task].output_names(values, params.labels)


def check_varied(values: Sequence[Any]) -> None:
    """Refuse labels that are all alike.

    Raises:
        OneClassError: they are all alike.
    """
    classes = set(values)
    if len(classes) == 1:
        label = classes.pop()
        shown = ", ".join(label) or "none" if isinstance(label, tuple) else label
        raise OneClassError(
            f"all {len(values)} labelled rows carry the label {shown!r}; a classifier needs two: check prepare.label"
        )
