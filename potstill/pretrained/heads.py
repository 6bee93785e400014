"""The task that a model is for, as transformers itself tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def task_named(architecture: str, problem_type: str | None, labels: int) -> TaskKind | None:
    """Find the task of a saved model; None: its class has the head of no task.

    Args:
        architecture: name of its class.
        problem_type: of its config.
        labels: number of its outputs; a single output is a number.
    """
    fitting = [name for name, kind in KINDS.items() if architecture.endswith(kind.head.suffix)]
    named = [name for name in fitting if problem_type is not None and KINDS[name].head.problem_type == problem_type]
    if labels == 1 and not named:
        named = [name for name in fitting if KINDS[name].one_output]
    return next(iter(named or fitting), None)


def task_of(model: PreTrainedModel) -> TaskKind:
    """Find the task of a loaded model; `single_label` for one without the head of a task."""
    config = model.config
    return task_named(type(model).__name__, getattr(config, "problem_type", None), config.num_labels) or "single_label"
