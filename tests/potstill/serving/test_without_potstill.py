"""Tests of the recipe of docs/artifacts.md, which uses a serving folder without Potstill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.inference.runtime import Student
from tests.conftest import REPOSITORY, generate_rows
from tests.e2e.pages import blocks
from tests.potstill.serving.folders import MAX_LENGTH, write_serving


def padding_tokenizer(base: Path, folder: Path) -> Path:
    """The tiny base with a tokenizer that pads to 128 tokens and truncates at 64, as sentence encoders do."""
    folder.mkdir()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(64)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("pair", [False, True])
def test_the_recipe_gives_the_probabilities_of_the_service(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: bool
) -> None:
    folder = write_serving(tiny_base, tmp_path / "data/serving", pair=pair)
    write_served_tokenizer(padding_tokenizer(tiny_base, tmp_path / "base"), MAX_LENGTH, tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    (recipe,) = [block for block in blocks(REPOSITORY / "docs/artifacts.md") if block.kind == ["python"]]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(recipe.code, names)
    texts = [text for text, _ in generate_rows(20)] + ["a", "very long " * 200]
    inputs: list[Any] = [(text, other) for text, other in zip(texts, texts[::-1], strict=True)] if pair else list(texts)
    for text, expected in zip(inputs, Student(folder, 1).predict(inputs), strict=True):
        answer = names["probabilities"](*text) if pair else names["probabilities"](text)
        assert list(answer.values()) == pytest.approx(expected.probabilities, abs=1e-6)


def test_the_served_tokenizer_truncates_on_the_side_of_training(tiny_base: Path, tmp_path: Path) -> None:
    source = tmp_path / "base"
    source.mkdir()
    (source / "tokenizer.json").write_bytes((tiny_base / "tokenizer.json").read_bytes())
    (source / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "left"}), encoding="utf-8")
    folder = write_serving(tiny_base, tmp_path / "serving")
    write_served_tokenizer(source, MAX_LENGTH, folder / "tokenizer.json")
    from potstill.artifacts import write_manifest

    write_manifest(folder)
    tokenizer = Student(folder, 1).tokenizer
    assert (tokenizer.truncation["direction"], tokenizer.truncation["max_length"]) == ("left", MAX_LENGTH)
    assert tokenizer.padding is None
