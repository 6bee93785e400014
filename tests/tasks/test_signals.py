from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import file_sums, read_json
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.providers import LiveTeacher
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

pytestmark = pytest.mark.slow


class CutShort(LiveTeacher):
    """A power cut in the fourth shard: two rows show the form of the outputs, then a batch a shard."""

    calls = 0

    def __call__(self, *args: Any) -> Outputs:
        self.calls += 1
        if self.calls > 2 + 3:
            raise KeyboardInterrupt
        return super().__call__(*args)


def test_a_stopped_stage_goes_on_and_ends_with_the_same_store(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = {"dtype": "float16", "batch_tokens": 1024, "shard_rows": 20, "vectors": [2]}
    fp32 = {"precision": "fp32"}  # what bf16 products give, float16 holds without rounding
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, project=fp32, signals=chosen)
    run_stages("ingest", "prepare", "validate", "tokenize", "teacher", monkeypatch=monkeypatch, folder=folder)
    straight = run_stage("signals")
    expected = file_sums(folder / "data" / "signals")
    shutil.rmtree(folder / "data" / "signals")
    shutil.rmtree(folder / ".work" / "checkpoints")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.signals.LiveTeacher", CutShort)
        with pytest.raises(KeyboardInterrupt):
            run_stage("signals")
    assert not (folder / "data" / "signals").exists()
    capsys.readouterr()
    resumed = run_stage("signals")
    rows = read_json(folder / "data" / "signals" / "manifest.json")["about"]["rows"]
    assert f"signals: 60 of {rows} rows are there from the run before" in capsys.readouterr().out
    assert file_sums(folder / "data" / "signals") == expected
    assert resumed == straight
    assert straight.summary.endswith("; also stored: first-2, mean-2")
    assert straight.metrics["signals"] == rows
    assert 0 < straight.metrics["mean_rounding_error"] < straight.metrics["rounding_error"] < 1e-2
    assert all(0 <= straight.metrics[f"rounding_kl_at_{T}"] < 1e-4 for T in (1, 2, 4))
    assert straight.metrics["changed_argmax"] < 0.1
