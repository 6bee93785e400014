from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from potstill.data.cleaning import clean, cleaning_normalizer
from tests.potstill.labels.test_offsets import tokenizer


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a\t b\r\n\nc ", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x07c\x1b\x9fd\ufeff", "abcd"),
        ("no\u00a0break\u2003space\u2028line", "no break space line"),
        *((kept, kept) for kept in ("\U0001f469\u200d\U0001f680", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")),
        ("\ud83d half", "\ufffd half"),
        (None, ""),
        (7, "7"),
    ],
)  # fmt: skip
def test_clean(raw: object, cleaned: str) -> None:
    assert clean(raw) == cleaned


@given(st.text())
def test_clean_is_stable_normal_and_writable(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()
    assert "\x1f" not in once
    assert "  " not in once


def test_a_normalizer_takes_the_white_space_of_python() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    text = "a".join(["", *(character for character in characters if character.isspace()), ""])
    assert cleaning_normalizer(None).normalize_str(text) == clean(text) == " ".join("a" * text.count("a"))
    others = "".join(character for character in characters if not character.isspace())
    assert " " not in cleaning_normalizer(None).normalize_str(others)


PLAIN = [tokenizer(kind) for kind in ("wordpiece", "unigram", "bytes")]


def cleaning(plain: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(plain.to_str())
    copy.normalizer = cleaning_normalizer(copy.normalizer)
    return Tokenizer.from_str(copy.to_str())


CLEANING = list(map(cleaning, PLAIN))


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab \t\n\r\x07\u00a0\u0301\ufeff")))
def test_a_tokenizer_that_cleans_gives_the_tokens_of_the_cleaned_text(text: str) -> None:
    for plain, cleaner in zip(PLAIN, CLEANING, strict=True):
        assert cleaner.encode(text).ids == plain.encode(clean(text)).ids


def test_offsets_of_a_tokenizer_that_cleans_are_those_of_the_raw_text() -> None:
    raw = "\n\nJohn\x07 lives\t\tin Paris \n"
    for cleaner in CLEANING:
        covered = {index for start, end in cleaner.encode(raw).offsets for index in range(start, end)}
        assert {index for index, character in enumerate(raw) if character.isalpha()} <= covered
        assert not {0, 1, len(raw) - 1} & covered
