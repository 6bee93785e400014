from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.inference.occlusion import Span, remove_span, text_parts, word_spans
from potstill.inference.runtime import Text

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=200)


def test_each_word_and_mark_is_a_span() -> None:
    text = "A warm, witty film."
    spans = word_spans(text, 31)
    assert [text[span.start : span.end] for span in spans] == ["A", "warm", ",", "witty", "film", "."]
    assert remove_span(text, spans[1]) == "A , witty film."


def test_a_word_of_a_pair_is_removed_from_its_own_text() -> None:
    pair = ("It rains.", "It is dry.")
    spans = word_spans(pair, 31)
    assert [span.part for span in spans] == [0, 0, 0, 1, 1, 1, 1]
    assert remove_span(pair, Span(1, 6, 9)) == ("It rains.", "It is .")


@pytest.mark.parametrize("text", ["", "  \n", ("", "")])
def test_a_text_without_words_has_no_spans(text: Text) -> None:
    assert word_spans(text, 31) == []


@given(text=TEXTS | st.tuples(TEXTS, TEXTS), limit=st.integers(2, 31))
def test_spans_are_few_and_in_order_and_do_not_overlap(text: Text, limit: int) -> None:
    spans = word_spans(text, limit)
    assert len(spans) <= limit
    assert spans == sorted(spans, key=lambda span: (span.part, span.start))
    for before, after in itertools.pairwise(spans):
        assert before.part < after.part or before.end <= after.start
    for span in spans:
        rest = text_parts(remove_span(text, span))
        assert len(rest[span.part]) == len(text_parts(text)[span.part]) - (span.end - span.start)
        assert span.end > span.start
