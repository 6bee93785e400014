from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import pipeline

from potstill.artifacts import file_sums, read_json, write_manifest
from potstill.models.loading import load_classifier
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

pytestmark = pytest.mark.slow

SCRATCH: dict[str, Any] = {
    "ingest": {"teacher": {"kind": "scratch"}},
    "pretrain": {
        "epochs": 2, "learning_rate": 5e-3, "batch_tokens": 256, "vocabulary": 150, "layers": 3, "width": 32,
        "heads": 2, "max_length": 16,
    },
    "distill": {"layers": [0, 2]},
    "control": {"epochs": 1},
    "project": {"precision": "fp32"},
}  # fmt: skip
DATA = ("ingest", "prepare", "validate")


def test_a_given_teacher_is_taken_as_it_came_without_a_copy(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    *_, result = run_stages(*DATA, "pretrain", monkeypatch=monkeypatch, folder=folder)
    given, base = folder / "data" / "given", folder / "data" / "base"
    assert result.summary == "nothing to train: the teacher is given (file)"
    assert file_sums(base) == file_sums(given)
    assert (base / "model.safetensors").samefile(given / "model.safetensors")


def test_a_base_from_scratch_is_taught_distilled_and_compared(
    tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tmp_path, **SCRATCH)
    stages = (*DATA, "pretrain", "tokenize", "teacher", "signals", "general", "distill", "control")
    results = dict(zip(stages, run_stages(*stages, monkeypatch=monkeypatch, folder=folder), strict=True))
    assert {path.name for path in (folder / "data" / "given").iterdir()} == {"manifest.json"}
    assert "150 tokens and an encoder of 3 layers" in results["pretrain"].summary
    assert {"loss", "loss_mlm", "dev"} == {name for _, name, _ in results["pretrain"].history}
    assert pipeline("fill-mask", str(folder / "data" / "base"))("a superb [MASK]")[0]["score"] > 0
    for name, layers in (("teacher", 3), ("distilled", 2), ("control", 2)):
        assert load_classifier(folder / "data" / name).config.num_hidden_layers == layers


def test_the_same_texts_give_the_same_bytes_and_those_of_dev_and_test_do_not_matter(
    tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tmp_path, **SCRATCH)
    run_stages(*DATA, "pretrain", monkeypatch=monkeypatch, folder=folder)
    base, prepared = folder / "data" / "base", folder / "data" / "prepared"
    first = file_sums(base)
    run_stage("pretrain")
    assert file_sums(base) == first
    original = shutil.copytree(prepared, tmp_path / "prepared")
    for split, matters in (("dev", False), ("test", False), ("train", True), ("transfer", True)):
        shutil.rmtree(prepared)
        shutil.copytree(original, prepared)
        table = pq.read_table(prepared / f"{split}.parquet")
        row = pa.table({"id": ["0"], "text": ["quux quux quux quux"], "label": pa.array([None], pa.int64())})
        pq.write_table(pa.concat_tables([table, row]), prepared / f"{split}.parquet")
        write_manifest(prepared)
        run_stage("pretrain")
        changed = {name for name, value in file_sums(base).items() if first[name] != value}
        assert changed & {"tokenizer.json", "model.safetensors"} == (
            {"tokenizer.json", "model.safetensors"} if matters else set()
        )


def test_general_distillation_is_what_distill_starts_from(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    general = {"layers": [0, 2], "epochs": 2, "batch_tokens": 256, "terms": [{"kind": "hidden"}]}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, distill={"layers": [0, 2]}, general=general)
    stages = (*DATA, "pretrain", "tokenize", "teacher", "signals", "general", "distill")
    results = dict(zip(stages, run_stages(*stages, monkeypatch=monkeypatch, folder=folder), strict=True))
    assert "layers [0, 2] of the base" in results["general"].summary
    assert "the student starts from the general student" in capsys.readouterr().out
    assert read_json(folder / "data" / "general" / "manifest.json")["about"]["layers"] == [0, 2]
    assert load_classifier(folder / "data" / "distilled").config.num_hidden_layers == 2
    first = file_sums(folder / "data" / "general")
    run_stage("general")
    assert file_sums(folder / "data" / "general") == first
    # Off again, and distill starts from the teacher's layers.
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["general"]["layers"] = None
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert run_stage("general").summary == "nothing to train: general.layers is null"
    run_stage("distill")
    assert "general student" not in capsys.readouterr().out.split("nothing to train")[-1]
