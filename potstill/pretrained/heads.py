"""What a task makes of a model: the class of transformers that has its head, and how a saved model names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from potstill.config.base import TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASKS: tuple[TaskKind, ...] = get_args(TaskKind)


@dataclass(frozen=True)
class Head:
    """The head of one task.

    Attributes:
        name: of the kind of model, in a sentence.
        auto: transformers' Auto class that loads it.
        suffix: how the names of such classes end.
        problem_type: of the config, by which `transformers.pipeline` knows what logits mean; None: its default.
    """

    name: str
    auto: str
    suffix: str
    problem_type: str | None


_SENTENCE = ("sequence classifier", "AutoModelForSequenceClassification", "ForSequenceClassification")
HEADS: dict[TaskKind, Head] = {
    "single_label": Head(*_SENTENCE, None),
    "multi_label": Head(*_SENTENCE, "multi_label_classification"),
    "regression": Head(*_SENTENCE, "regression"),
    "token_classification": Head("token classifier", "AutoModelForTokenClassification", "ForTokenClassification", None),
    "question_answering": Head("model of questions", "AutoModelForQuestionAnswering", "ForQuestionAnswering", None),
}


def task_named(architecture: str, problem_type: str | None, labels: int) -> TaskKind | None:
    """The task of a saved model, as transformers itself tells it; None: a class with no head of these.

    Args:
        architecture: name of its class.
        problem_type: of its config.
        labels: its outputs; one alone is a number.
    """
    fitting = [task for task in TASKS if architecture.endswith(HEADS[task].suffix)]
    named = [task for task in fitting if problem_type is not None and HEADS[task].problem_type == problem_type]
    if not named and "regression" in fitting and labels == 1:
        return "regression"
    return next(iter(named or fitting), None)


def task_of(model: PreTrainedModel) -> TaskKind:
    """The task of a model; of one without a head of these, `single_label`."""
    config = model.config
    return task_named(type(model).__name__, getattr(config, "problem_type", None), config.num_labels) or "single_label"
