from __future__ import annotations

import time

import pytest

from potstill.config.serving_params import Watch
from potstill.serving.redaction import Redactor


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann.lee+x@mail.example.org now", "write to [email] now"),
        ("ÄNN@büro.example, b_b@x.co.uk", "[email], [email]"),
        ("call +49 (30) 123-4567 or 030/1234567", "call [phone] or [phone]"),
        ("(0171) 234 56 78.", "[phone]."),
        ("12 of 3,500.20 films in 1999", "[number] of [number] films in [number]"),
        ("order A17 and ١٢٣", "order A[number] and [number]"),
        ("a dull film", "a dull film"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert Redactor(Watch().masks)(text) == masked


def test_masks_are_applied_in_order_and_replaced_by_their_names() -> None:
    redact = Redactor({"name": r"Ann \w+", "id": r"#\w+"})
    assert redact("Ann Lee #a7 \\1") == "[name] [id] \\1"
    assert redact.columns(("Ann Lee", "b")) == {"text": "[name]", "text_pair": "b"}
    assert redact.columns("#x") == {"text": "[id]"}


LONG = ["1 " * 10_000, "a" * 20_000, "a@" * 10_000, "a.b-" * 5000 + "@", "(" * 20_000, "+1" * 10_000]


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:4])
def test_the_patterns_are_fast_on_every_text(text: str) -> None:
    start = time.process_time()
    Redactor(Watch().masks)(text)
    assert time.process_time() - start < 1
