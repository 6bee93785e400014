from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from potstill.artifacts import file_sums, read_json, verify, write_json
from potstill.config.yaml_file import read_params
from potstill.data.validation.profiles import accept_profile
from potstill.errors import ExpectationError
from tests.conftest import REPOSITORY
from tests.tasks.data_workspace import make_workspace, run_stages

pytestmark = pytest.mark.slow


def test_passing_data_then_accepted_then_the_same_bytes_again(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    results = run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    out = folder / "data" / "validation"
    assert "change was not checked" in results[-1].summary
    assert read_json(out / "result.json")["success"] is True
    assert (out / "docs" / "index.html").exists()
    write_json(folder / "data" / "accepted.json", accept_profile(out))
    (result,) = run_stages("validate", monkeypatch=monkeypatch, folder=folder)
    assert "compared with the last accepted data" in result.summary
    assert "change" in read_json(out / "result.json")["suites"]
    first = file_sums(out)
    run_stages("validate", monkeypatch=monkeypatch, folder=folder)
    assert file_sums(out) == first


def test_failing_data_stops_with_docs_and_without_outs(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"min_rows": {"train": 1000, "dev": 1, "test": 1, "transfer": 7}}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, validate=limits)
    words = (
        r"2 expectations failed: train: enough rows: observed \d+, wanted at least 1,000 .*min_rows.train\); "
        r"transfer: enough rows: observed 0, .*; see \.work/validation-failed/docs/index\.html"
    )
    with pytest.raises(ExpectationError, match=words):
        run_stages("ingest", "prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data" / "validation").exists()
    verify(folder / ".work" / "validation-failed")
    assert "Failed" in (folder / ".work" / "validation-failed" / "docs" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["pairs", "rating", "multi-label"])
def test_the_default_data_is_what_the_limits_of_every_params_file_on_it_ask(
    name: str, tmp_path: Path, default_raw: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    sections = read_params(REPOSITORY / "params.yaml") | read_params(REPOSITORY / "params" / f"{name}.yaml")
    sections["prepare"]["augment"] = None  # its rows have no label, and are most of the work
    (folder / "params.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    (folder / "data" / "raw").symlink_to(default_raw)
    results = run_stages("prepare", "validate", monkeypatch=monkeypatch, folder=folder)
    assert "expectations hold" in results[-1].summary
