from __future__ import annotations

from pathlib import Path

import pytest

from potstill.artifacts import verify
from potstill.models.loading import load_classifier
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

TERMS = [
    {"kind": "relations", "heads": 4, "schedule": "decay", "fraction": 0.5},
    {"kind": "hidden", "layers": [[1, 2], [2, 4]]},
]


def test_terms_on_layers_run_the_teacher_beside_the_store(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = {"layers": [0, 2], "terms": TERMS, "accumulate": 2, "batch_tokens": 64}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, distill=plan)
    run_stages(
        "ingest", "prepare", "validate", "tokenize", "teacher", "signals", monkeypatch=monkeypatch, folder=folder
    )
    capsys.readouterr()
    result = run_stage("distill")
    assert {f"loss_{name}" for name in ("kl", "ce", "relations", "hidden")} <= {name for _, name, _ in result.history}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("distill: +")]
    assert [line.split(" on ")[0] for line in said] == ["distill: + 1 * relations(heads=4)", "distill: + 1 * hidden"]
    verify(folder / "data" / "distilled")
    assert load_classifier(folder / "data" / "distilled").config.num_hidden_layers == 2
