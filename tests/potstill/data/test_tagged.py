from __future__ import annotations

from typing import Any

import pytest

from potstill.config.prepare_params import LabelWords
from potstill.data.formats.tagged import TaggedText, tag_slash_words, tag_spans, tag_text, tag_words
from potstill.errors import LabelError
from potstill.labels.tags import entities_of


def entities(row: TaggedText) -> list[tuple[str, str]]:
    """Type and text of each entity."""
    assert row.tags is not None
    assert len(row.tags) == len(row.units)
    return [(kind, row.text[row.units[a].start : row.units[b - 1].end]) for kind, a, b in entities_of(row.tags)]


def test_words_and_tags() -> None:
    row = tag_words(["He", "left", "the", "U.S.", "."], ["O", "O", "O", "B-LOC", "O"], "BIO2", " ", "row")
    assert row.text == "He left the U.S. ."
    assert entities(row) == [("LOC", "U.S.")]


def test_characters_as_words() -> None:
    row = tag_words(list("江泽民在北京"), ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC"], "BIO2", "", "row")
    assert row.text == "江泽民在北京"
    assert entities(row) == [("PER", "江泽民"), ("LOC", "北京")]


def test_adjacent_entities_of_one_type_stay_two() -> None:
    row = tag_words(list("北京上海"), ["B-LOC", "I-LOC", "B-LOC", "I-LOC"], "BIO2", "", "row")
    assert entities(row) == [("LOC", "北京"), ("LOC", "上海")]


def test_a_word_that_cleaning_empties_leaves_its_entity_whole() -> None:
    row = tag_words(["\x00", "New", "York"], ["B-LOC", "I-LOC", "I-LOC"], "BIO2", " ", "row")
    assert row.text == "New York"
    assert entities(row) == [("LOC", "New York")]


def test_an_emptied_word_gives_nothing_to_an_entity_of_its_own() -> None:
    row = tag_words(["\x00", "York"], ["B-LOC", "B-LOC"], "BIO2", " ", "row")
    assert row.tags == ("B-LOC",)


def test_rows_without_tags() -> None:
    assert tag_words(["a", "b"], None, "BIO2", " ", "row").tags is None
    assert tag_text(" a\tb ") == tag_words(["a", "b"], None, "BIO2", " ", "row")


def test_spans_count_the_characters_of_the_text_as_it_was() -> None:
    text = "  Visit\t\tNew \x00 York, or cafe\u0301s in\nPa\x00ris"
    marked = [(text.index("New"), text.index(","), "LOC"), (text.index("Pa"), len(text), "LOC")]
    row = tag_spans(text, [list(span) for span in marked], "row")
    assert row.text == "Visit New York, or cafés in Paris"
    assert entities(row) == [("LOC", "New York"), ("LOC", "Paris")]


def test_a_span_within_a_word_cuts_it() -> None:
    row = tag_spans("antiUS mood", [{"start": 4, "end": 6, "label": "LOC"}], "row")
    assert entities(row) == [("LOC", "US")]
    assert row.text == "antiUS mood"


def test_a_text_without_entities() -> None:
    row = tag_spans("nothing here", [], "row")
    assert row.tags == ("O", "O")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[0, 3, "A"], [2, 5, "B"]], "spans 0-3 and 2-5 overlap"),
        ([[0, 99, "A"]], "span 0-99 is not within the text's 8 characters"),
        ([[3, 3, "A"]], "span 3-3 is not within"),
        ([{"start": 0, "end": 2}], "is no span; write"),
        ([[3, 4, "A"]], "holds white space alone"),
        (None, "not a list; write \\[\\]"),
        (["x"], "is no span"),
    ],
)
def test_invalid_spans_are_refused(spans: Any, message: str) -> None:
    with pytest.raises(LabelError, match=f"^rows.jsonl, line 2: .*{message}"):
        tag_spans("abc defg", spans, "rows.jsonl, line 2")


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["a", "b"], ["O"], "has 2 words and 1 tags"),
        ("a b", ["O"], "not a list of texts"),
        (["a"], ["I-X"], "continues no X entity"),
        (["a"], "O", "not a list of BIO tags"),
    ],
)
def test_invalid_words_are_refused(words: Any, tags: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        tag_words(words, tags, "BIO2", " ", "row")


PEOPLE = LabelWords(kind="words", types={"nr": "PER", "ns": "LOC", "nt": "ORG"}, joined=["nr"], between="")


def test_words_that_carry_their_part_of_speech() -> None:
    """The People's Daily: surname and given name are adjacent words of one tag; adjacent places stay two."""
    row = tag_slash_words("中共中央/nt  总书记/n  、/w  江/nr  泽民/nr  在/p 北京/ns 上海/ns １/2/m", PEOPLE, "row")
    assert row.text == "中共中央总书记、江泽民在北京上海１/2"
    assert entities(row) == [("ORG", "中共中央"), ("PER", "江泽民"), ("LOC", "北京"), ("LOC", "上海")]


def test_names_that_nothing_divides_are_two_words_each() -> None:
    row = tag_slash_words("江/nr 泽民/nr 李/nr 鹏/nr 乔/nr 石/nr 、/w 克林顿/nr", PEOPLE, "row")
    assert [name for _, name in entities(row)] == ["江泽民", "李鹏", "乔石", "克林顿"]


@pytest.mark.parametrize("line", ["中国", "中国/", "/ns"])
def test_a_word_without_a_tag_is_refused(line: str) -> None:
    with pytest.raises(LabelError, match=r"row: '.*' \(word 2\) has no tag after '/'"):
        tag_slash_words(f"在/p {line}", PEOPLE, "row")
