from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from potstill.data.tokens.wordpiece import SPECIAL, save_tokenizer, train_wordpiece
from potstill.errors import EmptyDataError, ParamsError
from tests.conftest import REPOSITORY, generate_rows

TEXTS = [text for text, _ in generate_rows(120, seed=4)] + ["江泽民主席发表ABC讲话", "新华社记者：江泽民主席"] * 3


def test_chinese_characters_stand_alone_and_words_are_cut(tmp_path: Path) -> None:
    save_tokenizer(train_wordpiece(TEXTS, 200, 2, lowercase=True), 16, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("江主席 ABC") == ["江", "主", "席", *tokenizer.tokenize("abc")]
    assert "".join(piece.removeprefix("##") for piece in tokenizer.tokenize("Gripping")) == "gripping"
    assert tokenizer("记者")["input_ids"][0] == tokenizer.cls_token_id == 2
    assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL.values()] == [0, 1, 2, 3, 4]
    assert tokenizer.model_max_length == 16


def test_sizes_are_kept() -> None:
    tokenizer = train_wordpiece([*TEXTS, "once 罕"], 150, 2, lowercase=True)
    assert tokenizer.get_vocab_size() == 150
    assert "罕" not in tokenizer.get_vocab()
    assert "罕" in train_wordpiece([*TEXTS, "once 罕"], 150, 1, lowercase=True).get_vocab()
    assert "A" in train_wordpiece(TEXTS, 150, 2, lowercase=False).get_vocab()


SCRIPT = """
import hashlib, json, sys
from potstill.data.tokens.wordpiece import train_wordpiece
texts = json.load(sys.stdin)
print(hashlib.sha256(train_wordpiece(texts, 200, 2, lowercase=True).to_str().encode()).hexdigest())
"""


def test_the_same_texts_give_the_same_bytes_in_every_process() -> None:
    """The library's own trainer numbers and picks pieces differently from process to process."""
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "true"}
    command, texts = [sys.executable, "-c", SCRIPT], json.dumps(TEXTS)
    actual = [
        subprocess.run(command, env=variables, input=texts, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    assert len(actual[0]) == 65
    assert len(set(actual)) == 1


def test_a_vocabulary_too_small_for_the_characters_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"pretrain.vocabulary is 20, but the texts have \d+ characters"):
        train_wordpiece(TEXTS, 20, 2, lowercase=True)


def test_texts_without_a_frequent_character_are_refused() -> None:
    with pytest.raises(EmptyDataError, match="no character occurs 9 times"):
        train_wordpiece(["ab"], 100, 9, lowercase=True)
