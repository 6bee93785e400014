from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from potstill.artifacts import verify
from potstill.config import read_params
from potstill.models.loading import load_classifier
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

TERMS = [
    {"kind": "relations", "heads": 4, "schedule": "decay", "fraction": 0.5},
    {"kind": "hidden", "layers": [[1, 2], [2, 4]]},
]


def test_terms_on_layers_run_the_teacher_beside_the_store_or_take_all_from_it(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = {"layers": [0, 2], "terms": TERMS, "accumulate": 2, "batch_tokens": 64}
    fp32 = {"precision": "fp32"}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, project=fp32, distill=plan)
    run_stages(
        "ingest", "prepare", "validate", "tokenize", "teacher", "signals", monkeypatch=monkeypatch, folder=folder
    )
    capsys.readouterr()
    result = run_stage("distill")
    assert {f"loss_{name}" for name in ("kl", "ce", "relations", "hidden")} <= {name for _, name, _ in result.history}
    lines = capsys.readouterr().out.splitlines()
    needed = "hidden states 2, 4, attention of layers 4"
    assert f"distill: the teacher runs for its {needed}, which the signals stage can store" in lines
    said = [line for line in lines if line.startswith("distill: +")]
    assert [line.split(" on ")[0] for line in said] == ["distill: + 1 * relations(heads=4)", "distill: + 1 * hidden"]
    verify(folder / "data" / "distilled")
    assert load_classifier(folder / "data" / "distilled").config.num_hidden_layers == 2

    params = read_params(folder / "params.yaml")
    params["signals"] = {"hidden": [2, 4], "attention": [4], "shard_rows": 50}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    summary = run_stage("signals").summary
    assert summary.endswith("; also stored: hidden-2, hidden-4, queries-4, keys-4, values-4")
    capsys.readouterr()
    again = run_stage("distill")
    assert "the teacher runs" not in capsys.readouterr().out
    for (*where, live), (*there, stored) in zip(result.history, again.history, strict=True):
        assert where == there
        assert stored == pytest.approx(live, rel=1e-2), where
