from __future__ import annotations

from pathlib import Path

import pytest

from potstill.artifacts import file_sums
from potstill.errors import FetchError
from tests.tasks.data_workspace import make_workspace, run_stages


def test_both_outs_and_the_same_bytes_again(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    (result,) = run_stages("ingest", monkeypatch=monkeypatch, folder=folder)
    first = file_sums(folder / "data")
    assert {"raw/rows/rows.csv", "raw/manifest.json", "given/model.safetensors", "given/manifest.json"} <= first.keys()
    assert "files of rows" in result.summary
    run_stages("ingest", monkeypatch=monkeypatch, folder=folder)
    assert file_sums(folder / "data") == first


def test_missing_teacher_leaves_nothing(tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tmp_path / "nowhere")
    with pytest.raises(FetchError, match=r"ingest\.teacher\.path"):
        run_stages("ingest", monkeypatch=monkeypatch, folder=folder)
    assert {path.name for path in (folder / "data").iterdir()} == {"accepted.json", "sources.json"}
