from __future__ import annotations

import json
from pathlib import Path

import pytest

from potstill.data.proposals.english_coverage import ALPHABET, CONFIG, estimate_coverage
from potstill.data.tokens.coverage import measure_coverage


def test_alphabet_and_config_are_the_default_teachers(default_base: Path) -> None:
    vocabulary = json.loads((default_base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert {token for token in vocabulary if len(token) == 1} == ALPHABET
    assert {token[2:] for token in vocabulary if token.startswith("##") and len(token) == 3} == ALPHABET
    assert json.loads((default_base / "config.json").read_text(encoding="utf-8")).items() >= CONFIG.items()


@pytest.mark.parametrize(
    "text",
    ["这家酒店的服务非常好，我很喜欢", "The waiter was friendly, and the soup was hot.", "ดีมากครับ อร่อย", "😀 fine"],
)
def test_unknown_tokens_are_those_of_the_default_teacher(text: str, default_base: Path) -> None:
    assert estimate_coverage([text]).unknown_share == pytest.approx(
        measure_coverage(default_base, [text]).unknown_share
    )


def test_lengths_are_about_those_of_the_default_teacher(default_base: Path) -> None:
    texts = ["The machine stopped after two days, and nobody answered any of my letters or gave my money back."] * 5
    assert estimate_coverage(texts).quantile(0.5) == pytest.approx(
        measure_coverage(default_base, texts).quantile(0.5), rel=0.2
    )
