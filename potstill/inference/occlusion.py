"""Explanation of a prediction by occlusion: the weight of a word is how much the score drops when it is removed.

Zeiler and Fergus 2014, section 2.1. Occlusion needs only the predictions of a model, so it explains the served INT8
model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class WeighedWord(Span):
    """A word of a text, or a run of words, and how much lower the explained score is without it."""

    text: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """What an answer rests on.

    Attributes:
        index: of the explained label in the model card.
        score: probability of this label, or the number of a regression model.
        words: the weights of the words, in the order of the text.
        truncated: whether the text was cut, so that words after the cut have no weight.
    """

    index: int
    score: float
    words: list[WeighedWord]
    truncated: bool


class Occlusion:
    """A text whose words are removed in turn.

    Args:
        text: a text or pair.
        limit: most words, or runs of words, that are removed; below 2 none is.

    Attributes:
        texts: the text, and the text without each word; the model has to predict them.
    """

    def __init__(self, text: Text, limit: int) -> None:
        self._spans = word_spans(text, limit) if limit >= 2 else []
        self.texts: list[Text] = [text, *(remove_span(text, span) for span in self._spans)]

    def explain(self, predictions: Sequence[Prediction], index: int | None = None) -> Explanation:
        """Weigh the words by the predictions of `texts`.

        Args:
            predictions: of `texts`, in order.
            index: of the label to explain; None: the most probable one.
        """
        whole, *reduced = predictions
        if index is None:
            index = max(range(len(whole.logits)), key=whole.logits.__getitem__)
        score = _score(whole, index)
        parts = text_parts(self.texts[0])
        words = [
            WeighedWord(
                **asdict(span), text=parts[span.part][span.start : span.end], weight=score - _score(other, index)
            )
            for span, other in zip(self._spans, reduced, strict=True)
        ]
        return Explanation(index, score, words, whole.truncated)


def _score(prediction: Prediction, index: int) -> float:
    """Return the score that is explained: the probability of a label, or the number of a regression model."""
    return prediction.probabilities[index] if prediction.probabilities else prediction.logits[0]
