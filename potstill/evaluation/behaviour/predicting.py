"""Answers of any model to texts, in a form in which they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.metrics import Doubles, require_finite

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Student, Text


@dataclass(frozen=True)
class Predictions:
    """A model's answers to texts.

    Attributes:
        answers: [texts] a label; multi_label: a list of labels; regression: the number; token_classification: a list
            of [type, start, end]; question_answering: [start, end], or None for no answer.
        scores: [texts, labels] probabilities; regression: [texts, 1] the numbers; [texts, 0] for answers that are
            places in the text.
    """

    answers: list[Any]
    scores: Doubles


Predict = Callable[[Sequence["Text"]], Predictions]


def from_probabilities(
    probabilities: Callable[[Sequence[Text]], npt.NDArray[np.floating]],
    task: TaskKind,
    labels: Sequence[Label],
    who: str,
) -> Predict:
    """Wrap a model of labels or numbers as `Predict`.

    Args:
        probabilities: texts -> probabilities [texts, labels]; for a regression the numbers [texts, 1].
        task: single_label, multi_label or regression.
        labels: names of the columns.
        who: the model's name, for errors.

    Raises:
        ModelError: when it is called, the model answers NaN or infinity.
    """

    def predict(texts: Sequence[Text]) -> Predictions:
        scores = np.asarray(probabilities(texts), dtype=np.float64)
        require_finite(scores, who)
        return Predictions(_answers(scores, task, labels), scores)

    return predict


def _answers(scores: Doubles, task: TaskKind, labels: Sequence[Label]) -> list[Any]:
    if KINDS[task].form == "number":
        return [float(value) for value in scores[:, 0]]
    if KINDS[task].form == "labels":
        return [[label for label, value in zip(labels, row, strict=True) if value > 0.5] for row in scores]
    return [labels[index] for index in scores.argmax(axis=1).tolist()]


def from_student(student: Student, who: str) -> Predict:
    """Wrap a served model of any task as `Predict`; see `from_probabilities`."""
    labels = student.card.labels
    if student.card.form == "entities":
        return lambda texts: _tags(student, texts)
    if student.card.form == "span":
        return lambda texts: _replies(student, texts)

    def scores(texts: Sequence[Text]) -> Doubles:
        predictions = student.predict(texts)
        rows = [prediction.probabilities or prediction.logits for prediction in predictions]
        return np.array(rows, dtype=np.float64).reshape(len(texts), len(labels))

    return from_probabilities(scores, student.card.kind, labels, who)


def from_pipeline(pipeline: Callable[[list[Any]], Any], form: Form) -> Predict:
    """Wrap a teacher of entities or answers, from `contenders.teacher_pipeline`, as `Predict`."""

    def predict(texts: Sequence[Any]) -> Predictions:
        results = pipeline(list(texts))
        if form == "span":
            return _spans(results)
        # transformers returns the entities of a single text without a list around them.
        rows = [results] if len(texts) == 1 else results
        answers = [[[entity["entity_group"], entity["start"], entity["end"]] for entity in row] for row in rows]
        return Predictions(answers, np.empty((len(texts), 0)))

    return predict


def _tags(student: Student, texts: Sequence[Any]) -> Predictions:
    taggings = student.tag(texts)
    answers = [[[entity.type, entity.start, entity.end] for entity in tagging.entities] for tagging in taggings]
    return Predictions(answers, np.empty((len(texts), 0)))


def _replies(student: Student, texts: Sequence[Any]) -> Predictions:
    return _spans(student.answer(texts))


def _spans(replies: Sequence[Reply]) -> Predictions:
    answers = [None if reply.answer is None else [reply.start, reply.end] for reply in replies]
    return Predictions(answers, np.empty((len(replies), 0)))
