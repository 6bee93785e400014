"""Explanation of a prediction by occlusion: the weight of a word is how much the score drops when it is removed.

Zeiler and Fergus 2014, section 2.1. Occlusion needs only the predictions of a model, so it explains the served INT8
model itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from potstill.inference.runtime import Prediction, Text
from potstill.labels.tags import units_of


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text, or of text `part` of a pair."""

    part: int
    start: int
    end: int


def text_parts(text: Text) -> tuple[str, ...]:
    """Return the text, or the two texts of a pair, as a tuple."""
    return (text,) if isinstance(text, str) else text


def word_spans(text: Text, limit: int) -> list[Span]:
    """Split a text into the spans of its words in order, or of runs of words if there are more than the limit.

    Args:
        text: a text or pair.
        limit: the largest number of spans; at least 2, so that both texts of a pair can have one.
    """
    words = [units_of(part) for part in text_parts(text)]
    # No run crosses from one text of a pair to the other, which can take one run more.
    size = max(1, -(-sum(map(len, words)) // max(limit - len(words) + 1, 1)))
    spans: list[Span] = []
    for part, units in enumerate(words):
        runs = [units[first : first + size] for first in range(0, len(units), size)]
        spans += [Span(part, run[0].start, run[-1].end) for run in runs]
    return spans


def remove_span(text: Text, span: Span) -> Text:
    """Return the text without one span."""
    parts = list(text_parts(text))
    parts[span.part] = parts[span.part][: span.start] + parts[span.part][span.end :]
    return parts[0] if isinstance(text, str) else (parts[0], parts[1])


def explained_score(prediction: Prediction, index: int) -> float:
    """Return the score that is explained: the probability of a label, or the number of a regression model."""
    return prediction.probabilities[index] if prediction.probabilities else prediction.logits[0]
