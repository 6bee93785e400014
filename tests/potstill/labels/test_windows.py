from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from potstill.kinds.definitions.question_answering import reply
from potstill.labels.offsets import UNSEEN, unit_tokens
from potstill.labels.tags import units_of
from potstill.labels.windows import (
    NONE,
    NOWHERE,
    Span,
    TextWindower,
    Window,
    Windower,
    answer_tokens,
    best_spans,
)
from tests.potstill.labels.test_offsets import tokenizer

MAX_LENGTH, STRIDE = 32, 6
WORDS = "river,house,unbelievable,Zoë,naïve,New York,since,1998,lives,today,北京,江泽民".split(",")  # noqa: SIM905


def paired(kind: str) -> Any:
    """The tokenizer of `kind` for pairs."""
    from tokenizers import processors

    trained = tokenizer(kind)
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return trained


def row(seed: int = 1, words: int = 40) -> tuple[str, str]:
    generator = random.Random(seed)
    return "who ?", " ".join([*generator.choices(WORDS, k=words), "江"])


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_windows_cover_the_context_and_overlap(kind: str) -> None:
    question, context = row()
    words = paired(kind)
    (windows,) = Windower(words, MAX_LENGTH, STRIDE)([question], [context])
    assert len(windows) > 2
    assert all(len(window.ids) == len(window.type_ids) == len(window.offsets) <= MAX_LENGTH for window in windows)
    seen: set[int] = set()
    for window in windows:
        places = window.offsets[window.offsets[:, 0] != NOWHERE]
        assert (window.offsets[[0, -1]] == NOWHERE).all()
        seen |= {position for start, end in places.tolist() for position in range(start, end)}
    assert {position for position, character in enumerate(context) if character != " "} <= seen
    whole = words.encode(question, context)
    overlap = [set(map(tuple, w.offsets[w.offsets[:, 0] != NOWHERE].tolist())) for w in windows]
    for before, after in itertools.pairwise(overlap):
        assert before & after
    # Each window begins as the untruncated row does: with the whole question.
    length = whole.sequence_ids.index(1)
    assert all(window.ids[:length] == whole.ids[:length] for window in windows)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_an_answer_is_converted_to_tokens_and_back(kind: str) -> None:
    """Wherever it is: a model sure of the labelled tokens answers with the marked characters."""
    question, context = row()
    (windows,) = Windower(paired(kind), MAX_LENGTH, STRIDE)([question], [context])
    places = [(context.index(word), context.index(word) + len(word)) for word in ("Zoë", "北京", "1998", "today")]
    places.append((len(context) - 1, len(context)))
    for start, end in places:
        labels = [answer_tokens(window, start, end) for window in windows]
        assert any(label != (NONE, NONE) for label in labels)
        logits = [[np.zeros(len(window.ids)) for window in windows] for _ in range(2)]
        for number, label in enumerate(labels):
            for side in (0, 1):
                logits[side][number][label[side]] = 9.0
        (best, *_), _ = best_spans(windows, *logits)
        assert context[best.start : best.end].strip() == context[start:end]
        answered = reply(
            context, windows, [np.stack(side, axis=1) for side in zip(*logits, strict=True)], no_answer=True
        )
        assert (answered.answer, answered.start, answered.end) == (context[start:end], start, end)


def test_a_window_without_the_whole_answer_says_none() -> None:
    window = Window([2, 9, 3, 10, 11, 3], [0] * 6, np.array([[-1, -1], [-1, -1], [-1, -1], [4, 7], [8, 12], [-1, -1]]))
    assert answer_tokens(window, 8, 12) == (4, 4)
    assert answer_tokens(window, 5, 9) == (3, 4)  # half a token at each end: the tokens that hold it
    for start, end in ((0, 3), (3, 7), (8, 13), (12, 15)):
        assert answer_tokens(window, start, end) == (NONE, NONE)


def _by_hand(windows: list[Window], starts: list[Any], ends: list[Any], max_tokens: int) -> list[Span]:
    """Every valid pair of tokens."""
    scores: dict[tuple[int, int], float] = {}
    for window, begin, finish in zip(windows, starts, ends, strict=True):
        context = [index for index in range(len(begin)) if window.offsets[index, 0] != NOWHERE]
        for a in context:
            for b in context:
                if a <= b < a + max_tokens:
                    key = int(window.offsets[a, 0]), int(window.offsets[b, 1])
                    scores[key] = max(scores.get(key, -np.inf), float(begin[a] + finish[b]))
    return sorted((Span(*key, score) for key, score in scores.items()), key=lambda s: (-s.score, s.start, s.end))


@pytest.mark.parametrize("max_tokens", [1, 4, 30])
def test_the_best_span_is_the_best_of_all_valid_ones(max_tokens: int) -> None:
    question, context = row()
    (windows,) = Windower(paired("wordpiece"), MAX_LENGTH, STRIDE)([question], [context])
    random_ = np.random.default_rng(3)
    for _ in range(20):
        logits = [[random_.normal(size=len(window.ids)) * 4 for window in windows] for _ in range(2)]
        actual, nothing = best_spans(windows, *logits, most=20, max_tokens=max_tokens)
        expected = _by_hand(windows, *logits, max_tokens)
        assert actual[0] == expected[0]
        assert len(actual) == len({(span.start, span.end) for span in actual}) <= 20
        assert [span.score for span in actual] == sorted((span.score for span in actual), reverse=True)
        assert nothing == min(a[0] + b[0] for a, b in zip(*logits, strict=True))


def test_with_the_best_end_before_the_best_start_there_is_still_an_answer() -> None:
    window = Window([2, 7, 8, 3], [0] * 4, np.array([[-1, -1], [0, 2], [3, 5], [-1, -1]]))
    (best, *_), _ = best_spans([window], [np.array([0.0, 0, 9, 0])], [np.array([0.0, 9, 0, 0])], most=1)
    assert (best.start, best.end) == (3, 5)


def test_a_question_that_fills_the_window_is_cut() -> None:
    (windows,) = Windower(paired("wordpiece"), MAX_LENGTH, STRIDE)(["river " * 200], ["Zoë lives in New York"])
    assert all((window.offsets[:, 0] != NOWHERE).sum() > 0 for window in windows)
    assert answer_tokens(windows[0], 0, 3) != (NONE, NONE)


@pytest.mark.parametrize("length", [8, 9])
def test_the_shortest_windows_hold_a_question_between_four_special_tokens(length: int) -> None:
    from tokenizers import processors

    words = paired("wordpiece")  # as RoBERTa's tokenizer divides a pair
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    (windows,) = Windower(words, length, length // 4)(["who lives in New York ?"], [row()[1]])
    assert {len(window.ids) for window in windows[:-1]} == {length}


def test_an_empty_context_has_no_answer() -> None:
    (windows,) = Windower(paired("wordpiece"), MAX_LENGTH, STRIDE)(["who ?"], [""])
    zeros = [np.zeros(len(window.ids)) for window in windows]
    assert best_spans(windows, zeros, zeros) == ([], 0.0)


def test_a_stride_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="windows of 32 tokens cannot share 9; at most 8"):
        Windower(paired("wordpiece"), 32, 9)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
@pytest.mark.parametrize("stride", [0, 3, 6])
def test_one_window_with_its_token_answers_for_every_unit(kind: str, stride: int) -> None:
    _, text = row(words=60)
    words, units = tokenizer(kind), units_of(text)
    (windows, (alone,)) = TextWindower(words, MAX_LENGTH, stride)([text, "today"], [units, units_of("today")])
    assert len(windows) > 3
    assert alone.ids == words.encode("today").ids
    assert windows[0].unit_slice.start == 0
    assert all(before.unit_slice.stop == after.unit_slice.start for before, after in itertools.pairwise(windows))
    assert windows[-1].unit_slice.stop == len(units)
    whole = words.encode(text)
    speaks = unit_tokens(whole.offsets, whole.special_tokens_mask, units)
    context = MAX_LENGTH - 2
    for number, window in enumerate(windows):
        assert len(window.ids) == len(window.type_ids) <= MAX_LENGTH
        assert (window.ids[0], window.ids[-1]) == (whole.ids[0], whole.ids[-1])
        start = number * (context - stride)
        assert window.ids[1:-1] == whole.ids[1:-1][start : start + context]
        # A unit has the same token as in the whole text.
        known = window.tokens != UNSEEN
        assert (window.tokens[known] + start == speaks[window.unit_slice][known]).all()
        assert (speaks[window.unit_slice][~known] == UNSEEN).all()
        if stride and number and known.any():  # not from the window's very edge
            assert window.tokens[known].min() > stride // 2


def test_a_text_without_a_token_has_one_window() -> None:
    ((empty,),) = TextWindower(tokenizer("wordpiece"), MAX_LENGTH, STRIDE)([""], [[]])
    assert (len(empty.tokens), len(empty.ids)) == (0, 2)
    with pytest.raises(ValueError, match="cannot share 9"):
        TextWindower(tokenizer("wordpiece"), MAX_LENGTH, 9)
