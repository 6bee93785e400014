"""Which words a served model's answers rest on, for a few texts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potstill.inference.occlusion import Span, explained_score, remove_span, text_parts, word_spans
from potstill.inference.runtime import Student, Text

# Words, or runs of words, of a text: each is one prediction more.
_SPANS = 48


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


def attribute(student: Student, texts: Sequence[Text], gold: Sequence[str]) -> list[Attribution]:
    """Weigh the words of texts by leaving each out in turn (`potstill.inference.occlusion`).

    Args:
        student: the served model, of a task without spans.
        texts: a few.
        gold: their right answers.
    """
    return [_attribution(student, text, right) for text, right in zip(texts, gold, strict=True)]


def _attribution(student: Student, text: Text, gold: str) -> Attribution:
    spans = word_spans(text, _SPANS)
    whole, *without = student.predict([text, *(remove_span(text, span) for span in spans)])
    index = max(range(len(whole.logits)), key=whole.logits.__getitem__)
    score = explained_score(whole, index)
    weights = [score - explained_score(prediction, index) for prediction in without]
    is_number = student.card.form == "number"
    answer = f"{score:.4g}" if is_number else str(student.card.labels[index])
    parts = [
        _words(part, [(span, weight) for span, weight in zip(spans, weights, strict=True) if span.part == number])
        for number, part in enumerate(text_parts(text))
    ]
    return Attribution(gold, answer, score, parts)


def _words(text: str, weights: Sequence[tuple[Span, float]]) -> list[Word]:
    """Divide a text into its weighed spans and what is between them."""
    words: list[Word] = []
    end = 0
    for span, weight in weights:
        words += [Word(text[end : span.start], 0.0), Word(text[span.start : span.end], weight)]
        end = span.end
    return [word for word in [*words, Word(text[end:], 0.0)] if word.text]
