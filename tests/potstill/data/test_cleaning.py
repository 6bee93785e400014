from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.data.cleaning import clean


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
