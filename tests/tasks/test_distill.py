from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from potstill.artifacts import file_sums, verify
from potstill.config.yaml_file import read_params
from potstill.errors import ModelError
from potstill.models.loading import load_classifier
from tasks.stage import Result
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

TERMS = [
    {"kind": "relations", "heads": 4, "schedule": "decay", "fraction": 0.5},
    {"kind": "hidden", "layers": [[1, 2], [2, 4]]},
]


@pytest.mark.slow
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


BEFORE = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals")


@pytest.fixture(scope="module")
def taught(slow: None, tiny_rows: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose teacher has given its signals."""
    folder = make_workspace(tmp_path_factory.mktemp("taught") / "w", tiny_rows, tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*BEFORE, monkeypatch=patch, folder=folder)
    return folder


def distil(taught: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Result:
    """Run the stage under other params of its own."""
    monkeypatch.chdir(taught)
    params = yaml.safe_load((taught / "params.yaml").read_text())
    plan = {"epochs": 1, "learning_rate": 1e-3, "batch_tokens": 256, "layers": [0, 2]}
    (taught / "params.yaml").write_text(yaml.safe_dump(params | {"distill": plan | changes}))
    return run_stage("distill")


@pytest.mark.slow
def test_an_assistant_teaches_the_student(
    taught: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = distil(taught, monkeypatch, assistants=[[0, 1, 2]], terms=[{"kind": "hidden", "weight": 0.1}])
    said = capsys.readouterr().out
    assert "distill: assistant 1 of 1, layers [0, 1, 2] of the teacher: dev accuracy" in said
    assert "hidden on student -> teacher layers 2 -> 3" in said  # its teacher is the assistant
    assert {"loss_kl", "assistant_1_loss_kl", "assistant_1_dev", "dev"} <= {name for _, name, _ in result.history}
    assert result.metrics["dev_accuracy_assistant_1"] == verify(taught / "data/distilled")["others"]["assistant_1"]
    assert load_classifier(taught / "data" / "distilled").config.num_hidden_layers == 2


def test_students_that_teach_each_other_and_the_best_is_kept(
    taught: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = distil(taught, monkeypatch, mutual={"students": [[0, 2], [1, 2, 3]], "weight": 0.5, "temperature": 4.0})
    said = capsys.readouterr().out
    assert "distill: + 0.5 * T^2 * KL(T=4) to the mean of the others, for each of 2 students" in said
    others = verify(taught / "data/distilled")["others"]
    scores = [result.metrics[f"dev_accuracy_student_{number}"] for number in (1, 2)]
    assert list(others.values()) == scores
    best = scores.index(max(scores))
    assert result.metrics["dev_accuracy"] == scores[best]
    assert f"with layers {[[0, 2], [1, 2, 3]][best]} of the teacher (student 1 " in result.summary
    assert load_classifier(taught / "data" / "distilled").config.num_hidden_layers == (2, 3)[best]


def test_mutual_learning_without_the_teacher(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = distil(taught, monkeypatch, mutual={"students": [[0, 2], [1, 3]], "teacher": False})
    terms = {f"loss_student{number}_{name}" for number in (1, 2) for name in ("ce", "mutual")}
    assert {name for _, name, _ in result.history} == terms | {"loss", "dev"}


@pytest.mark.slow
def test_lora_on_the_student_leaves_a_plain_folder(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distil(taught, monkeypatch)
    plain = set(file_sums(taught / "data" / "distilled"))
    distil(taught, monkeypatch, lora={"rank": 2})
    assert set(file_sums(taught / "data" / "distilled")) == plain
    ours, theirs = (load_classifier(taught / "data" / name).bert.state_dict() for name in ("distilled", "teacher"))
    assert torch.equal(ours["encoder.layer.1.output.dense.weight"], theirs["encoder.layer.2.output.dense.weight"])
    name = "attention.self.query.weight"
    assert not torch.equal(ours[f"encoder.layer.1.{name}"], theirs[f"encoder.layer.2.{name}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assistants": [[0, 2, 7]]}, r"distill\.assistants names layer 7, but the teacher in .* has 4 layers"),
        ({"mutual": {"students": [[0, 2], [9]]}}, r"distill\.mutual\.students names layer 9"),
        ({"lora": {"targets": ["qkv"]}}, r"distill\.lora\.targets names qkv, which layers of a bert do not have"),
    ],
)
def test_what_the_teacher_does_not_have_is_refused(
    taught: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        distil(taught, monkeypatch, **changes)
