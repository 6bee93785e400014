"""Fine-tuned teachers whose labels are not simply the data's, through the stage teacher; init and ingest before it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows.commands.create_workspace import create
from potstill.artifacts import read_json, verify, write_manifest
from potstill.config.ingest_params import Ingest
from potstill.data.fetching.ingestion import ingest_all
from potstill.data.proposals.proposal import DataOptions
from potstill.errors import LabelCountError, ModelError, ParamsError, PotstillError
from tasks import teacher as stage_module
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages
from tests.teachers import CASES, change_config, change_weights, copy_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenized(trained_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the case's rows, ready for the stage teacher."""
    folder = make_workspace(
        tmp_path_factory.mktemp("fitting") / "w", CASES / "ok.csv", trained_teacher,
        tokenize={"max_length": 64}, teacher={"fine_tuned": True}, project={"precision": "fp32", "device": "cpu"},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_stages("ingest", "prepare", "validate", "pretrain", "tokenize", monkeypatch=patch, folder=folder)
    return folder


class Case:
    """A copy of the workspace with a teacher that can be spoilt."""

    def __init__(self, folder: Path, tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(tokenized, folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(stage_module, "train", lambda *_: pytest.fail("it trained"))
        self.base = folder / "data" / "base"
        self._params = folder / "params.yaml"

    def run(self, **teacher: Any) -> float:
        """The dev score of the stage."""
        params = yaml.safe_load(self._params.read_text(encoding="utf-8"))
        params["teacher"] |= teacher
        self._params.write_text(yaml.safe_dump(params), encoding="utf-8")
        about = read_json(self.base / "manifest.json")["about"]
        (self.base / "manifest.json").unlink()
        write_manifest(self.base, about)
        return run_stage("teacher").metrics["dev_accuracy"]

    def refused(self, **teacher: Any) -> str:
        with pytest.raises(LabelCountError) as error:
            self.run(**teacher)
        return str(error.value)


@pytest.fixture
def case(tmp_path: Path, tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path / "w", tokenized, monkeypatch)


def reverse(folder: Path) -> None:
    """The output layer's rows in the other order."""
    change_weights(folder, lambda own: {n: v.flip(0) if n.startswith("classifier") else v for n, v in own.items()})


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_teacher_of_these_labels_is_right(case: Case, prefix: str) -> None:
    change_weights(case.base, lambda own: {f"{prefix}{name}": value for name, value in own.items()})
    assert case.run() > 0.9
    saved = read_json(case.base.parent / "teacher" / "config.json")
    assert saved["id2label"] == {"0": "ham", "1": "spam"}
    verify(case.base.parent / "teacher")


def test_names_in_label2id_alone_are_followed(case: Case) -> None:
    reverse(case.base)
    change_config(case.base, id2label=None, label2id={"spam": 0, "ham": 1})
    assert case.run() > 0.9


def test_without_names_the_order_that_fits_is_named(case: Case) -> None:
    reverse(case.base)
    change_config(case.base, id2label=None, label2id=None)
    said = case.refused()
    assert "with its labels in another order 9" in said or "with its labels in another order 100" in said
    assert said.endswith("they have no names, so set prepare.labels to its order: [spam, ham]")


def test_names_of_the_wrong_outputs_get_a_map(case: Case) -> None:
    reverse(case.base)  # id2label stays
    assert case.refused().endswith("set teacher.label_map to {ham: spam, spam: ham}")
    assert case.run(label_map={"ham": "spam", "spam": "ham"}) > 0.9


@pytest.mark.parametrize("names", [["no", "yes"], ["1 star", "2 stars"], ["Hàm", "späm"]])
def test_other_names_get_the_map_that_fits_dev(case: Case, names: list[str]) -> None:
    change_config(case.base, id2label=dict(enumerate(names)), label2id=None)
    said = case.refused()
    assert "does not know the label 'ham'" in said
    expected = yaml.safe_load(said.partition("which is which: ")[2].partition(" fits dev")[0])
    assert {str(name): label for name, label in expected.items()} == {names[0]: "ham", names[1]: "spam"}
    assert case.run(label_map=expected) > 0.9


def test_names_match_by_normal_form_and_letter_case_where_that_is_unique(case: Case) -> None:
    change_config(case.base, id2label={0: " HAM ", 1: "Spam"}, label2id=None)
    assert case.run() > 0.9


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (
            {"hm": "ham"},
            "label_map names 'hm', which the teacher in data/base does not have; its labels are ham",
        ),
        ({"ham": "Ham", "spam": "spam"}, "teacher.label_map leads to 'Ham', which is no label of the data; it has ham"),
        ({"ham": "spam"}, "does not know the label 'ham'"),
    ],
)
def test_a_map_names_what_both_have(case: Case, label_map: dict[str, str], message: str) -> None:
    assert message in case.refused(label_map=label_map)


def test_a_map_is_one_to_one_and_of_a_fine_tuned_teacher(case: Case) -> None:
    with pytest.raises(ParamsError, match=r"maps two of the teacher's labels to 'ham'"):
        case.run(label_map={"ham": "ham", "spam": "ham"})
    with pytest.raises(ParamsError, match="label_map is for a teacher that is fine-tuned already"):
        case.run(label_map={"ham": "ham"}, fine_tuned=False)


def test_a_teacher_of_chance_is_refused(case: Case) -> None:
    noise = torch.Generator().manual_seed(3)
    change_weights(
        case.base,
        lambda own: {n: torch.randn(v.shape, generator=noise) * 0.02 if "encoder" in n else v for n, v in own.items()},
    )
    said = case.refused()
    assert "which is not above chance" in said
    assert said.endswith("give another, or set teacher.fine_tuned to false to fine-tune it")


def test_one_output_is_explained(case: Case) -> None:
    change_weights(case.base, lambda own: {n: v[:1] if n.startswith("classifier") else v for n, v in own.items()})
    change_config(case.base, id2label={0: "spam"}, label2id={"spam": 0})
    said = case.refused()
    assert "has one output (spam), which is a number, but the data has 2 classes (ham, spam)" in said
    assert "set teacher.fine_tuned to false" in said


def test_a_head_of_another_size_is_made_anew(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(case.base.parents[1])
    change_weights(case.base, lambda own: {n: v[:1] if n.startswith("classifier") else v for n, v in own.items()})
    change_config(case.base, id2label={0: "spam"}, label2id={"spam": 0})
    case.run(fine_tuned=False, epochs=1)


# --- at init as at ingest ---------------------------------------------------------------------------------------------


def no_head(folder: Path) -> None:
    change_weights(folder, lambda own: {name: value for name, value in own.items() if "classifier" not in name})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (no_head, ModelError),
        (lambda folder: change_config(folder, model_type="albert"), ModelError),
        (lambda folder: change_config(folder, id2label={0: "ham", 1: "LABEL_1"}), LabelCountError),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), PotstillError),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\x80\x04N."), PotstillError),
        (lambda folder: (folder / "config.json").unlink(), ModelError),
    ],
    ids=["head", "family", "names", "pickle", "disguised", "config"],
)
def test_init_and_ingest_say_the_same(
    change: Any, kind: type[PotstillError], trained_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    change(folder)
    with pytest.raises(kind) as at_init:
        create(tmp_path / "w", CASES / "ok.csv", DataOptions(("text",), ("label",)), str(folder))
    sources = {"data": {"rows": {"kind": "file", "path": str(CASES / "ok.csv")}}}
    with pytest.raises(kind) as at_ingest:
        ingest_all(
            Ingest.model_validate(sources | {"teacher": {"kind": "file", "path": str(folder)}}),
            tmp_path / "raw", tmp_path / "given",
        )  # fmt: skip
    assert str(at_init.value) == str(at_ingest.value)
    assert not (tmp_path / "w").exists()


def test_a_folder_that_a_training_left_comes_in_without_its_leftovers(
    trained_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    for name in ("optimizer.pt", "training_args.bin", "runs/Nov28/events.out.tfevents.1", "checkpoint-9/optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04N.")
    create(tmp_path / "w", CASES / "ok.csv", DataOptions(("text",), ("label",)), str(folder))
    params = yaml.safe_load((tmp_path / "w" / "params.yaml").read_text(encoding="utf-8"))
    assert params["teacher"]["fine_tuned"] is True
    ingest_all(Ingest.model_validate(params["ingest"]), tmp_path / "raw", tmp_path / "given")
    files = read_json(tmp_path / "given" / "manifest.json")["files"]
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    said = capsys.readouterr().out
    assert "teacher: files that are never opened are left out: checkpoint-9/optimizer.pt, optimizer.pt" in said
