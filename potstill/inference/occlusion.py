"""Which words an answer hangs on: each is taken out in turn, and what that costs the answer is its weight.

Occlusion (Zeiler and Fergus 2014, section 2.1): it needs nothing of the model but its answers, so it explains the
served INT8 model itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from potstill.inference.runtime import Prediction, Text
from potstill.labels.tags import units_of


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text, or of one (`part`) of a pair's."""

    part: int
    start: int
    end: int


def parts_of(text: Text) -> tuple[str, ...]:
    """The text, or the two of a pair."""
    return (text,) if isinstance(text, str) else text


def spans_of(text: Text, most: int) -> list[Span]:
    """The words of a text in order; of a long one runs of neighbouring words, `most` at most.

    Args:
        text: a text or pair.
        most: at least 2, so that both texts of a pair have one.
    """
    units = [(part, unit) for part, words in enumerate(parts_of(text)) for unit in units_of(words)]
    # Of a pair the two texts are cut apart, which takes one run more.
    size = max(1, -(-len(units) // max(most - len(parts_of(text)) + 1, 1)))
    spans: list[Span] = []
    for part in range(len(parts_of(text))):
        own = [unit for at, unit in units if at == part]
        runs = [own[first : first + size] for first in range(0, len(own), size)]
        spans += [Span(part, run[0].start, run[-1].end) for run in runs]
    return spans


def without(text: Text, span: Span) -> Text:
    """The text with one span taken out."""
    parts = list(parts_of(text))
    parts[span.part] = parts[span.part][: span.start] + parts[span.part][span.end :]
    return parts[0] if isinstance(text, str) else (parts[0], parts[1])


def score_of(prediction: Prediction, index: int) -> float:
    """What is explained: a label's probability, or the number of a model of numbers."""
    return prediction.probabilities[index] if prediction.probabilities else prediction.logits[0]
