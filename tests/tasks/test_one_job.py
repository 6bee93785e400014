"""The stage `distill` and `potstill.distill.distill` are adapters of one job: same inputs, same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from potstill.config.params_file import load_params
from potstill.distill import distill
from potstill.models.loading import load_classifier
from tests.tasks.data_workspace import make_workspace, run_stages

# Each test trains twice.
pytestmark = pytest.mark.slow

STAGES = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "general", "distill")
PLAN: dict[str, Any] = {
    "layers": [0, 2], "epochs": 2, "learning_rate": 1e-3, "batch_tokens": 256, "evaluations_per_epoch": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "vocabulary", "general"),
    [
        ({"terms": [{"kind": "hidden", "weight": 0.1}], "assistants": [[0, 1, 2]]}, None, None),
        ({"mutual": {"students": [[0, 2], [1, 3]]}, "terms": [{"kind": "rkd"}]}, {"max_tokens": 90, "rank": 16}, None),
        ({"prune": {"ffn": 20, "rows": 50}}, None, {"layers": [0, 2], "epochs": 1, "terms": [{"kind": "cosine"}]}),
    ],
    ids=["assistant", "smaller vocabulary", "general student"],
)
def test_stage_and_python_give_the_same_weights(
    plan: dict[str, Any],
    vocabulary: dict[str, Any] | None,
    general: dict[str, Any] | None,
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base,
        project={"device": "cpu", "precision": "fp32"}, tokenize={"max_length": 32, "vocabulary": vocabulary},
        teacher={"epochs": 1}, general=general or {}, distill=PLAN | plan,
    )  # fmt: skip
    run_stages(*STAGES, monkeypatch=monkeypatch, folder=folder)
    params = load_params(folder / "params.yaml")
    train, transfer, dev = (
        pd.read_parquet(folder / f"data/prepared/{split}.parquet") for split in ("train", "transfer", "dev")
    )
    section = params.distill.model_dump(exclude={"transfer"})
    found = distill(
        folder / "data/teacher", train.text, train.label, dev=(dev.text, dev.label), transfer=transfer.text,
        vocabulary=vocabulary, general=None if general is None else folder / "data/general",
        max_length=32, seed=params.project.seed, device="cpu", precision="fp32", **section,
    )  # fmt: skip
    theirs, ours = load_classifier(folder / "data/distilled").state_dict(), found.student.state_dict()
    assert list(ours) == list(theirs)
    assert [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])] == []
    if vocabulary is not None:
        assert len(found.tokenizer) == vocabulary["max_tokens"]
