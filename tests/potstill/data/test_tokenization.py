from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from potstill.artifacts import sha256_file
from potstill.data.tokens.tokenization import check_length, copy_tokenizer, load_tokenizer, write_tokens
from potstill.errors import ModelError, SequenceLengthError
from tests.conftest import generate_rows

TEXTS = [
    "Good.", "", "naïve café — “quoted” 😀 你好吗", "don't  stop\tnow", "[SEP] [MASK] literal", "x" * 300,
    "a long text " * 100, "ÀÉÎ õü ß İ", "#hashtag @user http://t.co/abc?x=1", "1,234.56 €",
]  # fmt: skip


def table(texts: list[str], pairs: list[str] | None = None, labels: list[int | None] | None = None) -> pa.Table:
    columns = {
        "id": pa.array([str(index) for index in range(len(texts))], pa.string()),
        "text": pa.array(texts, pa.string()),
    }
    if pairs is not None:
        columns["text_pair"] = pa.array(pairs, pa.string())
    return pa.table(columns | {"label": pa.array(labels or [None] * len(texts), pa.int64())})


def written(base: Path, rows: pa.Table, path: Path, max_length: int) -> Any:
    from datasets import Dataset

    counts = write_tokens(rows, load_tokenizer(base, max_length), path)
    dataset = Dataset.from_file(str(path))
    assert counts.rows == dataset.num_rows == rows.num_rows
    assert counts.tokens == sum(map(len, dataset["input_ids"]))
    return counts, dataset


@pytest.mark.parametrize("max_length", [8, 128, 512])
def test_ids_are_those_of_transformers(default_base: Path, default_raw: Path, tmp_path: Path, max_length: int) -> None:
    from transformers import AutoTokenizer

    lines = (default_raw / "vader" / "tweets_GroundTruth.txt").read_text(encoding="utf-8").splitlines()[:500]
    texts = TEXTS + [line.split("\t")[-1] for line in lines]
    counts, dataset = written(default_base, table(texts), tmp_path / "a.arrow", max_length)
    theirs = AutoTokenizer.from_pretrained(default_base)
    assert list(dataset["input_ids"]) == theirs(texts, truncation=True, max_length=max_length)["input_ids"]
    assert counts.truncated == sum(len(ids) > max_length for ids in theirs(texts)["input_ids"])


def test_pairs_are_those_of_transformers(default_base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    pairs = TEXTS[::-1]
    _, dataset = written(default_base, table(TEXTS, pairs), tmp_path / "a.arrow", 32)
    theirs = AutoTokenizer.from_pretrained(default_base)(TEXTS, pairs, truncation=True, max_length=32)
    assert list(dataset["input_ids"]) == theirs["input_ids"]
    assert list(dataset["token_type_ids"]) == theirs["token_type_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_side_of_the_model_counts(tiny_base: Path, tmp_path: Path, side: str) -> None:
    from transformers import AutoTokenizer

    base = shutil.copytree(tiny_base, tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": side}))
    texts = [text for text, _ in generate_rows(20)]
    _, dataset = written(base, table(texts), tmp_path / "a.arrow", 8)
    assert (
        list(dataset["input_ids"])
        == AutoTokenizer.from_pretrained(base)(texts, truncation=True, max_length=8)["input_ids"]
    )


def test_file_is_mapped_typed_and_the_same_again(tiny_base: Path, tmp_path: Path) -> None:
    rows = table([text for text, _ in generate_rows(1500)], labels=[1, None, 0] * 500)
    _, dataset = written(tiny_base, rows, tmp_path / "a.arrow", 64)
    write_tokens(rows, load_tokenizer(tiny_base, 64), tmp_path / "b.arrow")
    assert sha256_file(tmp_path / "a.arrow") == sha256_file(tmp_path / "b.arrow")
    assert dataset["label"][:4] == [1, -1, 0, 1]
    assert dataset.cache_files == [{"filename": str(tmp_path / "a.arrow")}]
    assert dataset.data.schema.field("input_ids").type == pa.list_(pa.int32())


def test_empty_split(tiny_base: Path, tmp_path: Path) -> None:
    counts, dataset = written(tiny_base, table([]), tmp_path / "a.arrow", 64)
    assert (counts.rows, counts.tokens, counts.truncated) == (0, 0, 0)
    assert dataset.column_names == ["id", "input_ids", "label"]


def test_limit_beyond_the_positions_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    assert check_length(tiny_base, 64)["hidden_size"] == 32
    with pytest.raises(SequenceLengthError, match=r"max_length is 65, .* has 64 positions; .* at most 64"):
        check_length(tiny_base, 65)
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(roberta))
    check_length(tmp_path, 512)
    with pytest.raises(SequenceLengthError, match="512 positions"):
        check_length(tmp_path, 513)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlnet"}))
    check_length(tmp_path, 8192)


def test_slow_tokenizer_is_converted(tiny_base: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    old = tmp_path / "old"
    old.mkdir()
    vocabulary = Tokenizer.from_file(str(tiny_base / "tokenizer.json")).get_vocab()
    (old / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (old / "config.json").write_text((tiny_base / "config.json").read_text())
    copy_tokenizer(old, tmp_path / "new")
    text = "the superb movie was clumsy"
    assert load_tokenizer(tmp_path / "new", 64).encode(text).ids == load_tokenizer(tiny_base, 64).encode(text).ids


def test_missing_or_broken_tokenizer_is_named(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_base / "config.json").read_text())
    with pytest.raises(ModelError, match="tokenizer"):
        copy_tokenizer(tmp_path, tmp_path / "new")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(tmp_path, 64)
