"""Test rows for the page: those on which two models differ, and a model's surest errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from potstill.evaluation.abstention import confidence_and_right
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.pages.sheet import shortened
from potstill.evaluation.summary import Answers, Gold
from potstill.labels.offsets import unit_classes
from potstill.scores.answers import exact_match
from potstill.scores.metrics import Doubles, Labels

# Characters of a text that a row shows.
_CHARACTERS = 500
# What the candidate's answer is next to the rival's.
Change = Literal["gained", "lost", "both wrong", "both right"]
Order = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Row:
    """A test text with the answers of two models: a class, a label, a number, entities, or an answer.

    Attributes:
        text: as it was before tokenization.
        gold: what is right.
        rival: the rival's answer.
        rival_probability: of that answer; None where the task has none.
        student: the candidate's answer.
        student_probability: of that answer.
        change: `gained` where only the candidate is right, or nearer; `lost` where only the rival is.
    """

    text: str
    gold: str
    rival: str
    rival_probability: float | None
    student: str
    student_probability: float | None
    change: Change


@dataclass(frozen=True)
class Rows:
    """The first rows of a list, and how many the list has."""

    rows: list[Row]
    total: int


def differing_rows(
    texts: Sequence[str], gold: Gold, rival: Answers, student: Answers, names: Sequence[str], count: int
) -> Rows:
    """Return rows on which two models differ: the surest pairs or the most distant numbers first.

    Entities and answers, whose confidence is not compared, come in the order of the split.

    Args:
        texts: [rows] as they were before tokenization.
        gold: gold labels in the task's form.
        rival: the other model's answers.
        student: the candidate's answers.
        names: of the model's outputs.
        count: how many to return at most.
    """
    if isinstance(gold, GoldTags | GoldAnswers):
        return _span_rows(gold, rival, student, count, errors=False)
    if student.kind.form == "number":
        distance = np.abs(rival.numbers - student.numbers)
        return _number_rows(texts, gold, rival, student, _surest(distance > 0, distance), count)
    if student.kind.form == "labels":
        margin = np.minimum(np.abs(rival.probabilities - 0.5), np.abs(student.probabilities - 0.5))
        order = _surest((rival.probabilities > 0.5) != (student.probabilities > 0.5), margin)
        return _label_rows(texts, gold, rival.probabilities, student.probabilities, names, order, count)
    confidence = np.minimum(rival.probabilities.max(axis=1), student.probabilities.max(axis=1))
    order = _surest(student.predictions != rival.predictions, confidence)
    return _class_rows(texts, gold, rival, student, names, order, count)


def surest_errors(
    texts: Sequence[str], gold: Gold, rival: Answers, student: Answers, names: Sequence[str], count: int
) -> Rows:
    """Return rows on which the candidate is wrong, the surest or the most distant first; see `differing_rows`."""
    if isinstance(gold, GoldTags | GoldAnswers):
        return _span_rows(gold, rival, student, count, errors=True)
    if student.kind.form == "number":
        distance = np.abs(student.numbers - gold)
        return _number_rows(texts, gold, rival, student, _surest(distance > 0, distance), count)
    if student.kind.form == "labels":
        order = _surest((student.probabilities > 0.5) != (gold > 0), np.abs(student.probabilities - 0.5))
        return _label_rows(texts, gold, rival.probabilities, student.probabilities, names, order, count)
    order = _surest(student.predictions != gold, student.probabilities.max(axis=1))
    return _class_rows(texts, gold, rival, student, names, order, count)


def _surest(chosen: npt.NDArray[np.bool_], confidence: npt.NDArray[Any]) -> Order:
    """Return flat indices of what is chosen, the highest confidence first."""
    indices = np.flatnonzero(chosen)
    order: Order = indices[np.argsort(-confidence.reshape(-1)[indices], kind="stable")]
    return order


def _change(rival_right: bool, student_right: bool) -> Change:
    if rival_right and student_right:
        return "both right"
    if student_right:
        return "gained"
    return "lost" if rival_right else "both wrong"


def _class_rows(
    texts: Sequence[str],
    gold: Labels,
    rival: Answers,
    student: Answers,
    names: Sequence[str],
    order: Order,
    count: int,
) -> Rows:
    rival_confidence = rival.probabilities.max(axis=1)
    student_confidence = student.probabilities.max(axis=1)
    rows = [
        Row(
            shortened(texts[row], _CHARACTERS), names[gold[row]],
            names[rival.predictions[row]], float(rival_confidence[row]),
            names[student.predictions[row]], float(student_confidence[row]),
            _change(bool(rival.predictions[row] == gold[row]), bool(student.predictions[row] == gold[row])),
        )
        for row in order[:count].tolist()
    ]  # fmt: skip
    return Rows(rows, len(order))


def _number_rows(
    texts: Sequence[str], gold: Labels, rival: Answers, student: Answers, order: Order, count: int
) -> Rows:
    rows = []
    for row in order[:count].tolist():
        is_nearer = abs(student.numbers[row] - gold[row]) < abs(rival.numbers[row] - gold[row])
        rows.append(
            Row(
                shortened(texts[row], _CHARACTERS), f"{gold[row]:.4g}",
                f"{rival.numbers[row]:.4g}", None,
                f"{student.numbers[row]:.4g}", None,
                "gained" if is_nearer else "lost",
            )
        )  # fmt: skip
    return Rows(rows, len(order))


def _label_rows(
    texts: Sequence[str],
    gold: Labels,
    rival: Doubles,
    student: Doubles,
    names: Sequence[str],
    order: Order,
    count: int,
) -> Rows:
    """List a text once for each label in question; the probability is that of the answer, yes or no."""

    def answer(yes: bool, label: int) -> str:
        return names[label] if yes else f"not {names[label]}"

    rows = []
    for row, label in (divmod(index, len(names)) for index in order[:count].tolist()):
        rival_probability = float(rival[row, label])
        student_probability = float(student[row, label])
        right = bool(gold[row, label] > 0)
        change = _change((rival_probability > 0.5) == right, (student_probability > 0.5) == right)
        rows.append(
            Row(
                shortened(texts[row], _CHARACTERS), answer(right, label),
                answer(rival_probability > 0.5, label), max(rival_probability, 1 - rival_probability),
                answer(student_probability > 0.5, label), max(student_probability, 1 - student_probability),
                change,
            )
        )  # fmt: skip
    return Rows(rows, len(order))


def _span_rows(gold: GoldTags | GoldAnswers, rival: Answers, student: Answers, count: int, *, errors: bool) -> Rows:
    models = (rival, student)
    confidences = None
    if isinstance(gold, GoldTags):
        texts, right, answers = _entity_columns(gold, models)
        judged = [confidence_and_right(gold, model) for model in models]
        confidences = [confidence for confidence, _ in judged]
        flags = [hits.tolist() for _, hits in judged]
    else:  # the answer to a question has no calibrated probability
        texts, right, answers, flags = _answer_columns(gold, models)
    rival_answers, student_answers = answers
    if errors:
        wrong = ~np.array(flags[1], dtype=bool)
        order = np.flatnonzero(wrong) if confidences is None else _surest(wrong, confidences[1])
    else:
        order = np.flatnonzero(np.array(rival_answers, dtype=object) != np.array(student_answers, dtype=object))

    def probability(model: int, row: int) -> float | None:
        return None if confidences is None else float(confidences[model][row])

    rows = [
        Row(
            shortened(texts[row], _CHARACTERS), right[row],
            rival_answers[row], probability(0, row),
            student_answers[row], probability(1, row),
            _change(flags[0][row], flags[1][row]),
        )
        for row in order[:count].tolist()
    ]  # fmt: skip
    return Rows(rows, len(order))


def _entity_columns(gold: GoldTags, models: Sequence[Answers]) -> tuple[list[str], list[str], list[list[str]]]:
    """Return texts, right entities, and those of each model."""
    right = gold.entity_texts(gold.classes)
    answers = [
        gold.entity_texts(unit_classes(model.logits.argmax(axis=1), model.view(gold).visibility)) for model in models
    ]
    return list(gold.texts), right, answers


def _answer_columns(
    gold: GoldAnswers, models: Sequence[Answers]
) -> tuple[list[str], list[str], list[list[str]], list[list[bool]]]:
    """Return questions with contexts, right answers, those of each model, and whether these are right."""
    texts = [f"{question}\n{context}" for question, context in gold.questions]
    right = [" / ".join(dict.fromkeys(answers)) or "none" for answers in gold.gold]
    answers = [model.view(gold).answers(model.logits) for model in models]
    flags = [
        [exact_match(answer, accepted) > 0 for answer, accepted in zip(model_answers, gold.gold, strict=True)]
        for model_answers in answers
    ]
    return texts, right, [[answer or "none" for answer in model_answers] for model_answers in answers], flags
