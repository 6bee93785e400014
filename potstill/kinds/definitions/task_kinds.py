"""The registry of the kinds of task, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.multi_label import MultiLabel
from potstill.kinds.definitions.question_answering import QuestionAnswering
from potstill.kinds.definitions.regression import Regression
from potstill.kinds.definitions.single_label import SingleLabel
from potstill.kinds.definitions.token_classification import TokenClassification
from potstill.kinds.task_names import TaskKind

# A saved model whose head several tasks have is taken for the first of them.
KINDS: dict[TaskKind, Kind] = {
    "single_label": SingleLabel(),
    "multi_label": MultiLabel(),
    "regression": Regression(),
    "token_classification": TokenClassification(),
    "question_answering": QuestionAnswering(),
}
# The name in model.json -> the name in params.
CARD_NAMES: dict[str, TaskKind] = {kind.card_name: name for name, kind in KINDS.items()}


def kind_in(metrics: Mapping[str, Any]) -> Kind:
    """Return the kind of task that metrics.json is about."""
    return KINDS[metrics.get("task") or "single_label"]
