"""The words that a served model's answers rest on, for a few texts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.evaluation.gold import readable
from potstill.evaluation.summary import Answers
from potstill.inference.occlusion import Occlusion, WeighedWord, text_parts
from potstill.inference.runtime import Student, Text
from potstill.scores.metrics import Labels

# Most words, or runs of words, of a text: each costs a prediction.
_SPANS = 48
# Longest text that is chosen, in characters.
_CHARACTERS = 600


@dataclass(frozen=True)
class Word:
    """A piece of a text.

    Attributes:
        text: the piece.
        weight: how much the explained score drops without it; 0 for what is between words.
    """

    text: str
    weight: float


@dataclass(frozen=True)
class Attribution:
    """A text with the weight of its words.

    Attributes:
        gold: the right answer.
        answer: the model's answer, whose score is explained.
        score: probability of the answer, or the answered number.
        parts: the words of each text of a pair, or of the one text, and what is between them.
    """

    gold: str
    answer: str
    score: float
    parts: list[list[Word]]


def attribute(student: Student, texts: Sequence[Text], gold: Labels, answers: Answers, count: int) -> list[Attribution]:
    """Weigh the words of the surest errors and of texts that are answered right.

    Each word is left out in turn (`potstill.inference.occlusion`).

    Args:
        student: the served model, of a task without spans.
        texts: [rows].
        gold: [rows, ...] gold labels in the task's form.
        answers: the student's answers to them.
        count: how many texts; half of them errors, as far as there are.
    """
    return [
        _attribution(student, texts[row], _gold_name(student, gold[row]))
        for row in _chosen_rows(texts, gold, answers, count)
    ]


def _chosen_rows(texts: Sequence[Text], gold: Labels, answers: Answers, count: int) -> list[int]:
    """Choose short texts, since in long ones runs of words would be weighed."""
    short = np.array([len(readable(text)) <= _CHARACTERS for text in texts])
    if answers.kind.form == "number":
        rank = np.abs(answers.numbers - gold)
        wrong = short
        fillers = short
    else:
        rank, right = answers.kind.confidence(gold, answers.logits, answers.temperature)
        wrong = short & ~right
        fillers = short & right
    errors = [row for row in np.argsort(-rank, kind="stable").tolist() if wrong[row]]
    return list(dict.fromkeys([*errors[: count // 2], *np.flatnonzero(fillers).tolist()]))[:count]


def _gold_name(student: Student, gold: Any) -> str:
    if student.card.form == "number":
        return f"{gold:.4g}"
    if student.card.form == "labels":
        return ", ".join(str(label) for label, yes in zip(student.card.labels, gold, strict=True) if yes > 0) or "none"
    return str(student.card.labels[gold])


def _attribution(student: Student, text: Text, gold: str) -> Attribution:
    occlusion = Occlusion(text, _SPANS)
    explanation = occlusion.explain(student.predict(occlusion.texts))
    score = explanation.score
    is_number = student.card.form == "number"
    answer = f"{score:.4g}" if is_number else str(student.card.labels[explanation.index])
    parts = [
        _words(part, [word for word in explanation.words if word.part == number])
        for number, part in enumerate(text_parts(text))
    ]
    return Attribution(gold, answer, score, parts)


def _words(text: str, weighed: Sequence[WeighedWord]) -> list[Word]:
    """Divide a text into its weighed words and what is between them."""
    words: list[Word] = []
    end = 0
    for word in weighed:
        words += [Word(text[end : word.start], 0.0), Word(word.text, word.weight)]
        end = word.end
    return [word for word in [*words, Word(text[end:], 0.0)] if word.text]
