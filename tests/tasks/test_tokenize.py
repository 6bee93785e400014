from __future__ import annotations

import re
from pathlib import Path

import pytest

from potstill.artifacts import file_sums, read_json
from potstill.errors import SequenceLengthError, TokenizationError
from tests.conftest import write_csv
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages
from tests.teachers import widen_table

pytestmark = pytest.mark.slow


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


def test_texts_that_the_tokenizer_does_not_know_are_refused(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chinese reviews and the default English teacher: most tokens were unknown, and nothing said so."""
    texts = [(f"这部电影{number}非常{'好看' if number % 2 else '难看'}", str(number % 2)) for number in range(200)]
    folder = make_workspace(tmp_path / "w", write_csv(tmp_path / "rows.csv", texts), tiny_base)
    run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(TokenizationError, match=r"does not know \d+\.\d% of the tokens in train.*max_unknown_share"):
        run_stage("tokenize")
    assert not (folder / "data" / "tokens").exists()


def test_texts_most_of_which_are_cut_are_refused(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, tokenize={"max_length": 12, "max_cut_share": 0.5})
    run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(TokenizationError, match=r"are cut at tokenize\.max_length = 12, over the limit of 50\.0%"):
        run_stage("tokenize")


def test_a_table_that_is_too_large_for_the_file_is_trimmed_by_itself(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = widen_table(tiny_base, tmp_path / "base", rows=30_000)
    limits = {"gate": {"max_file_mb": 0.6}, "tokenize": {"vocabulary": {"max_tokens": "auto", "spell": False}}}
    folder = make_workspace(tmp_path / "w", tiny_rows, base, **limits)
    run_stages("ingest", "prepare", "validate", "tokenize", monkeypatch=monkeypatch, folder=folder)
    said = capsys.readouterr().out
    assert re.search(r"with all 30,000 tokens the student's INT8 file would have about 1\.\d MB; at most \d+,000", said)
    info = read_json(folder / "data/tokens/student/info.json")
    assert 0 < info["vocabulary"]["tokens"] <= info["vocabulary"]["of"] == 200
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("max_file_mb: 0.6", "max_file_mb: 20.0"), encoding="utf-8")
    run_stage("tokenize")
    assert "the whole vocabulary stays" in capsys.readouterr().out
    assert not (folder / "data/tokens/student").exists()
