"""Divides long texts and contexts into overlapping windows of tokens, and converts answers to tokens and back.

A window holds as much of a text as fits, or a question and as much of its context. The next window starts `stride`
tokens before the end of the previous one, so that an answer at a border is whole in one of them (Devlin et al. 2019,
section 4.2, and its SQuAD code). The window that sees more of a unit's neighbours answers for it. This module imports
neither torch nor pandas, since the service needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from potstill.labels.offsets import UNSEEN, unit_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from potstill.labels.tags import Unit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
# The offsets of a token outside of the context.
NOWHERE = -1
# Start and end of "no answer in this window": the first token, which is [CLS].
NONE = 0
# The largest share of a window for a question. A longer one is truncated, so that each window has some context.
QUESTION_SHARE = 0.5


@dataclass(frozen=True)
class Window:
    """A row of tokens of a question and a part of its context.

    Attributes:
        ids: [tokens] with special ones.
        type_ids: [tokens] segment ids.
        offsets: [tokens, 2] characters in the context, `NOWHERE` for tokens outside of it.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: Ints


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a context, and the sum of their start and end logits."""

    start: int
    end: int
    score: float


def without_truncation(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer without truncation and padding."""
    copy: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


class Windower:
    """Divides questions and contexts into windows. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        """Args: tokenizer: is copied. max_length: tokens of a window. stride: tokens that neighbours share.

        Raises:
            ValueError: the stride is more than a quarter of a window.
        """
        _check_stride(max_length, stride)
        self._plain = without_truncation(tokenizer)
        self._tokenizer = without_truncation(tokenizer)
        self._tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
        special = self._plain.num_special_tokens_to_add(True)
        # Four special tokens are half of the shortest windows.
        self._question_tokens = max(int(max_length * QUESTION_SHARE) - special, 1)

    def __call__(self, questions: Sequence[str], contexts: Sequence[str]) -> list[list[Window]]:
        """Divide each question with its context into one or more windows, in order: [rows]."""
        truncated = [self._truncate(question) for question in questions]
        encodings = self._tokenizer.encode_batch(list(zip(truncated, contexts, strict=True)))
        return [[_window(part) for part in (encoding, *encoding.overflowing)] for encoding in encodings]

    def _truncate(self, question: str) -> str:
        offsets = self._plain.encode(question, add_special_tokens=False).offsets
        limit = self._question_tokens
        return question if len(offsets) <= limit else question[: offsets[limit - 1][1]]


def _window(encoding: Encoding) -> Window:
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    context = np.array([part == 1 for part in encoding.sequence_ids])
    offsets[~context] = NOWHERE
    return Window(list(encoding.ids), list(encoding.type_ids), offsets)


def _check_stride(max_length: int, stride: int) -> None:
    if not 0 <= stride <= max_length // 4:
        raise ValueError(f"windows of {max_length} tokens cannot share {stride}; at most {max_length // 4}")


@dataclass(frozen=True)
class TextWindow:
    """A row of tokens of a text, and the units for which it answers.

    Attributes:
        ids: [tokens] with special ones.
        type_ids: [tokens] segment ids.
        first_unit: index of the window's first unit in the text.
        tokens: [units of this window] the token that represents each, or `offsets.UNSEEN`.
    """

    ids: list[int]
    type_ids: list[int]
    first_unit: int
    tokens: Ints

    @property
    def unit_slice(self) -> slice:
        """The window's units among those of the text."""
        return slice(self.first_unit, self.first_unit + len(self.tokens))


class TextWindower:
    """Divides texts into windows whose units follow each other without a gap. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        """Args: tokenizer: is copied. max_length: tokens of a window. stride: tokens that neighbours share.

        Raises:
            ValueError: the stride is more than a quarter of a window.
        """
        _check_stride(max_length, stride)
        self._tokenizer = without_truncation(tokenizer)
        self._tokenizer.enable_truncation(max_length, stride=stride)
        self._stride = stride
        self._step = max_length - self._tokenizer.num_special_tokens_to_add(False) - stride

    def __call__(self, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> list[list[TextWindow]]:
        """Divide each text with its units into one or more windows, in order: [rows]."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return [self._windows(*pair) for pair in zip(encodings, units, strict=True)]

    def _windows(self, encoding: Encoding, units: Sequence[Unit]) -> list[TextWindow]:
        parts = [encoding, *encoding.overflowing]
        masks = [np.array(part.special_tokens_mask) == 0 for part in parts]
        offsets = [np.array(part.offsets).reshape(-1, 2)[mask] for part, mask in zip(parts, masks, strict=True)]
        # Each token of the text once: a window starts with the last `stride` tokens of the previous one.
        text_offsets = np.concatenate([offsets[0], *(part[self._stride :] for part in offsets[1:])])
        tokens = unit_tokens(text_offsets, np.zeros(len(text_offsets), dtype=np.int64), units)
        # Of two windows that share a token, the one with more context on both of its sides answers for it.
        borders = self._step * np.arange(1, len(parts)) + (self._stride + 1) // 2
        owners = np.searchsorted(borders, tokens, side="right")
        # A unit without a token belongs to the window of the unit before it.
        owners = np.maximum.accumulate(np.where(tokens == UNSEEN, 0, owners))
        windows = []
        for number, (part, mask) in enumerate(zip(parts, masks, strict=True)):
            first, last = np.searchsorted(owners, [number, number + 1])
            window_tokens = tokens[first:last]
            shift = int(np.argmax(mask)) - number * self._step
            window_tokens = np.where(window_tokens == UNSEEN, UNSEEN, window_tokens + shift)
            windows.append(TextWindow(list(part.ids), list(part.type_ids), int(first), window_tokens))
        return windows


def answer_tokens(window: Window, start: int, end: int) -> tuple[int, int]:
    """Find the first and last token of an answer in a window; `(NONE, NONE)` unless it is whole in the window.

    Args:
        window: of the answer's context.
        start: first character in the context.
        end: the character after the last.
    """
    starts, ends = window.offsets.T
    within = np.flatnonzero((starts != NOWHERE) & (ends > starts))
    if not len(within) or start < starts[within[0]] or end > ends[within[-1]]:
        return NONE, NONE
    touched = within[(ends[within] > start) & (starts[within] < end)]
    return (int(touched[0]), int(touched[-1])) if len(touched) else (NONE, NONE)


def best_spans(
    windows: Sequence[Window],
    starts: Sequence[Floats],
    ends: Sequence[Floats],
    *,
    most: int = 20,
    max_tokens: int = 30,
) -> tuple[list[Span], float]:
    """Find the best answers to a question over all windows of its context.

    Args:
        windows: of one question and context.
        starts: of each window, [tokens] start logits.
        ends: of each window, [tokens] end logits.
        most: how many answers to return, and how many starts and ends of a window to consider.
        max_tokens: of the longest answer.

    Returns:
        Distinct spans of the context, the best first, and the score of "no answer". There are no spans only if no
        window has a token of the context. The score of "no answer" is the lowest of the windows', since a context has
        no answer if none of its windows has one.
    """
    scores: dict[tuple[int, int], float] = {}
    no_answer = np.inf
    for window, start_logits, end_logits in zip(windows, starts, ends, strict=True):
        no_answer = min(no_answer, float(start_logits[NONE] + end_logits[NONE]))
        for span in _window_spans(window, start_logits, end_logits, most, max_tokens):
            key = (span.start, span.end)
            scores[key] = max(scores.get(key, -np.inf), span.score)
    spans = [Span(start, end, score) for (start, end), score in scores.items()]
    return sorted(spans, key=lambda span: (-span.score, span.start, span.end))[:most], float(no_answer)


def _window_spans(window: Window, start_logits: Floats, end_logits: Floats, most: int, max_tokens: int) -> list[Span]:
    context = np.flatnonzero((window.offsets[:, 0] != NOWHERE) & (window.offsets[:, 1] > window.offsets[:, 0]))
    if not len(context):
        return []
    best_starts = context[np.argsort(-start_logits[context], kind="stable")[:most]]
    best_ends = context[np.argsort(-end_logits[context], kind="stable")[:most]]
    spans = []
    for start in best_starts.tolist():
        possible = context[(context >= start) & (context < start + max_tokens)]
        ends = {end for end in best_ends.tolist() if start <= end < start + max_tokens}
        # None of the best ends may follow this start, so it also gets the best end that is possible for it.
        ends.add(int(possible[np.argmax(end_logits[possible])]))
        for end in ends:
            score = float(start_logits[start] + end_logits[end])
            spans.append(Span(int(window.offsets[start, 0]), int(window.offsets[end, 1]), score))
    return spans
