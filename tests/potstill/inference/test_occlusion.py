from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.inference.occlusion import Span, parts_of, spans_of, without
from potstill.inference.runtime import Text

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=200)


def test_each_word_and_mark_is_a_span() -> None:
    text = "A warm, witty film."
    spans = spans_of(text, 31)
    assert [text[span.start : span.end] for span in spans] == ["A", "warm", ",", "witty", "film", "."]
    assert without(text, spans[1]) == "A , witty film."


def test_words_of_a_pair_are_taken_out_of_their_own_text() -> None:
    pair = ("It rains.", "It is dry.")
    spans = spans_of(pair, 31)
    assert [span.part for span in spans] == [0, 0, 0, 1, 1, 1, 1]
    assert without(pair, Span(1, 6, 9)) == ("It rains.", "It is .")


@pytest.mark.parametrize("text", ["", "  \n", ("", "")])
def test_without_words_there_is_nothing_to_take_out(text: Text) -> None:
    assert spans_of(text, 31) == []


@given(text=TEXTS | st.tuples(TEXTS, TEXTS), most=st.integers(2, 31))
def test_spans_are_few_and_in_order_and_do_not_overlap(text: Text, most: int) -> None:
    spans = spans_of(text, most)
    assert len(spans) <= most
    assert spans == sorted(spans, key=lambda span: (span.part, span.start))
    for before, after in itertools.pairwise(spans):
        assert before.part < after.part or before.end <= after.start
    for span in spans:
        rest = parts_of(without(text, span))
        assert len(rest[span.part]) == len(parts_of(text)[span.part]) - (span.end - span.start)
        assert span.end > span.start
