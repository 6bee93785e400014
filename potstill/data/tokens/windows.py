"""Long texts and contexts: overlapping windows of tokens, answers as tokens, and tokens back as characters.

A window is as much of the text (of a question's context, behind the question) as fits; the next one begins `stride`
tokens before the last one's end, so that an answer at a border is whole in one of them (Devlin et al. 2019, section
4.2, and its SQuAD code). A unit of a text is asked of the window that sees more of its neighbours.
Imports neither torch nor pandas: the service answers with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.offsets import UNSEEN, speakers

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from potstill.labels.tags import Unit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
# What a token that is not of the context has for characters.
NOWHERE = -1
# Start and end of "no answer here": the first token, which is [CLS].
NONE = 0
# Share of a window that a question may take at most; a longer one is cut, so that some context is always seen.
QUESTION_SHARE = 0.5


@dataclass(frozen=True)
class Window:
    """One row of tokens.

    Attributes:
        ids: [tokens] special ones included.
        type_ids: [tokens] segment ids.
        offsets: [tokens, 2] characters of the context, `NOWHERE` for tokens that are not of it.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: Ints


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a context, and the sum of the two logits that speak for them."""

    start: int
    end: int
    score: float


def uncut(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer that neither cuts nor pads."""
    copy: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


class Windower:
    """Cuts questions and contexts into windows. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        """Args: tokenizer: left as it is. max_length: tokens of a window. stride: tokens that neighbours share.

        Raises:
            ValueError: windows that share as much would not move on.
        """
        _check_stride(max_length, stride)
        self._plain, self._tokenizer = uncut(tokenizer), uncut(tokenizer)
        self._tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
        self._question_tokens = int(max_length * QUESTION_SHARE) - self._plain.num_special_tokens_to_add(True)

    def __call__(self, questions: Sequence[str], contexts: Sequence[str]) -> list[list[Window]]:
        """[rows] windows of each question and its context, one at least, in order."""
        asked = [self._short(question) for question in questions]
        encodings = self._tokenizer.encode_batch(list(zip(asked, contexts, strict=True)))
        return [[_window(part) for part in (encoding, *encoding.overflowing)] for encoding in encodings]

    def _short(self, question: str) -> str:
        offsets = self._plain.encode(question, add_special_tokens=False).offsets
        most = self._question_tokens
        return question if len(offsets) <= most else question[: offsets[most - 1][1]]


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
    """One row of tokens of a text, and the units that are asked of it.

    Attributes:
        ids: [tokens] special ones included.
        type_ids: [tokens] segment ids.
        units: how many units of the text come before those of this window.
        tokens: [units of this window] the token that speaks for each, `alignment.UNSEEN` where there is none.
    """

    ids: list[int]
    type_ids: list[int]
    units: int
    tokens: Ints

    @property
    def asked(self) -> slice:
        """Its units among those of the text."""
        return slice(self.units, self.units + len(self.tokens))


class TextWindower:
    """Cuts texts into windows whose units follow each other without a gap. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        """Args: tokenizer: left as it is. max_length: tokens of a window. stride: tokens that neighbours share.

        Raises:
            ValueError: windows that share as much would not move on.
        """
        _check_stride(max_length, stride)
        self._tokenizer = uncut(tokenizer)
        self._tokenizer.enable_truncation(max_length, stride=stride)
        self._stride = stride
        self._step = max_length - self._tokenizer.num_special_tokens_to_add(False) - stride

    def __call__(self, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> list[list[TextWindow]]:
        """[rows] windows of each text with these units, one at least, in order."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return [self._windows(*pair) for pair in zip(encodings, units, strict=True)]

    def _windows(self, encoding: Encoding, units: Sequence[Unit]) -> list[TextWindow]:
        parts = [encoding, *encoding.overflowing]
        masks = [np.array(part.special_tokens_mask) == 0 for part in parts]
        offsets = [np.array(part.offsets).reshape(-1, 2)[mask] for part, mask in zip(parts, masks, strict=True)]
        # The text's tokens, each once: windows begin a step after another.
        whole = np.concatenate([offsets[0], *(part[self._stride :] for part in offsets[1:])])
        tokens = speakers(whole, np.zeros(len(whole), dtype=np.int64), units)
        # A token that two windows have is asked of the one that has more before it and behind it.
        borders = self._step * np.arange(1, len(parts)) + (self._stride + 1) // 2
        owners = np.searchsorted(borders, tokens, side="right")
        # A unit without a token goes with the one before it.
        owners = np.maximum.accumulate(np.where(tokens == UNSEEN, 0, owners))
        found = []
        for number, (part, mask) in enumerate(zip(parts, masks, strict=True)):
            first, last = np.searchsorted(owners, [number, number + 1])
            own = tokens[first:last]
            before = int(np.argmax(mask)) - number * self._step
            own = np.where(own == UNSEEN, UNSEEN, own + before)
            found.append(TextWindow(list(part.ids), list(part.type_ids), int(first), own))
        return found


def answer_tokens(window: Window, start: int, end: int) -> tuple[int, int]:
    """First and last token of an answer in a window; `(NONE, NONE)` where it is not wholly in it.

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
    """The best answers to one question over all windows of its context.

    Args:
        windows: of one question and context.
        starts: of each window, [tokens] start logits.
        ends: of each window, [tokens] end logits.
        most: answers to return; also how many starts and ends of a window are looked at.
        max_tokens: of the longest answer.

    Returns:
        Distinct spans, best first: begin and end in the context, end not before begin. None only where no window has a
        token of the context. And the score of "no answer", the least of the windows': a context has no answer if
        none of its windows has one.
    """
    found: dict[tuple[int, int], float] = {}
    nothing = np.inf
    for window, begin, finish in zip(windows, starts, ends, strict=True):
        nothing = min(nothing, float(begin[NONE] + finish[NONE]))
        for span in _of_window(window, begin, finish, most, max_tokens):
            place = span.start, span.end
            found[place] = max(found.get(place, -np.inf), span.score)
    spans = [Span(start, end, score) for (start, end), score in found.items()]
    return sorted(spans, key=lambda span: (-span.score, span.start, span.end))[:most], float(nothing)


def _of_window(window: Window, begin: Floats, finish: Floats, most: int, max_tokens: int) -> list[Span]:
    context = np.flatnonzero((window.offsets[:, 0] != NOWHERE) & (window.offsets[:, 1] > window.offsets[:, 0]))
    if not len(context):
        return []
    first = context[np.argsort(-begin[context], kind="stable")[:most]]
    # The best start may have no good end behind it: each start is given the best end it can have as well.
    last = context[np.argsort(-finish[context], kind="stable")[:most]]
    spans = []
    for start in first.tolist():
        own = context[(context >= start) & (context < start + max_tokens)]
        ends = {int(own[np.argmax(finish[own])]), *(end for end in last.tolist() if start <= end < start + max_tokens)}
        for end in ends:
            score = float(begin[start] + finish[end])
            spans.append(Span(int(window.offsets[start, 0]), int(window.offsets[end, 1]), score))
    return spans
