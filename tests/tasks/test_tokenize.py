from __future__ import annotations

from pathlib import Path

import pytest

from potstill.artifacts import file_sums, read_json
from potstill.errors import SequenceLengthError
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages


def test_outs_have_the_documented_form_and_the_same_bytes_again(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    result = run_stage("tokenize")
    out = folder / "data" / "tokens"
    info = read_json(out / "info.json")
    assert {key: info[key] for key in ("max_length", "pad_token_id", "task", "pair", "labels")} == {
        "max_length": 16, "pad_token_id": 0, "task": "single_label", "pair": False, "labels": ["negative", "positive"],
    }  # fmt: skip
    assert info["splits"]["transfer"] == {"rows": 0, "tokens": 0, "truncated": 0, "unknown": 0, "text_tokens": 0}
    assert sum(split["rows"] for split in info["splits"].values()) == 200
    truncated = sum(split["truncated"] for split in info["splits"].values())
    assert 0 < truncated < 200
    assert f"{truncated} ({truncated / 200:.2%}) were cut at 16" in result.summary
    assert (out / "tokenizer" / "tokenizer.json").exists()
    first = file_sums(out)
    run_stage("tokenize")
    assert file_sums(out) == first


def test_limit_beyond_the_model_is_refused(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, tokenize={"max_length": 65})
    run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(SequenceLengthError, match="64 positions"):
        run_stage("tokenize")
    assert not (folder / "data" / "tokens").exists()
