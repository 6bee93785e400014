"""Tests of `potstill export` up to the file: the browser and OpenVINO are in tests/e2e/test_targets.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from potstill.artifacts import read_json, verify, write_json, write_manifest
from potstill.errors import ChecksumError, ModelError, ParamsError, ParityError, RegistryError, ToolError
from potstill.inference.runtime import Student, Text
from potstill.models.loading import load_classifier
from potstill.onnx_export.label_check import onnx_run
from potstill.scores.probabilities import softmax
from tasks.target_export import Target, export_target, find_source
from tests.potstill.serving.folders import TEMPERATURE, write_span_model
from tests.students import write_finished
from tests.teachers import read_rows

pytestmark = pytest.mark.slow

TEXTS: list[Text] = [text for text, _ in read_rows()[:60]]


@pytest.fixture(scope="module")
def finished(trained_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "workspace"
    return write_finished(load_classifier(trained_teacher), trained_teacher, folder, TEXTS)


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


def export(workspace: Path, target: Target = "web", *, exact: bool = False) -> Path:
    source = find_source(workspace, workspace / "data/serving")
    out = workspace / "exports" / target
    export_target(target, source, workspace / "data/prepared", out, title="reviews, candidate", exact=exact)
    return out


@pytest.mark.parametrize(("exact", "file", "dtype"), [(False, "model_quantized", "q8"), (True, "model", "fp32")])
def test_the_folder_is_whole_and_its_logits_are_calibrated(workspace: Path, exact: bool, file: str, dtype: str) -> None:
    folder = export(workspace, exact=exact)
    about = verify(folder)
    assert about["target"] == "web"
    assert about["check"]["texts"] == len(TEXTS)
    assert about["check"]["agreement"] >= 0.995
    config = read_json(folder / "config.json")
    assert config["id2label"] == {"0": "ham", "1": "spam"}
    assert config["transformers.js_config"] == {"dtype": dtype}
    assert config["potstill"] | {"temperature": 0} == {
        "task": "classification", "labels": ["ham", "spam"], "pair": False, "max_length": 48, "temperature": 0,
        "inputs": ["input_ids", "attention_mask"], "before": 1, "after": 1, "truncation_side": "right",
    }  # fmt: skip
    assert [path.name for path in (folder / "onnx").iterdir()] == [f"{file}.onnx"]
    student = Student(workspace / "data/serving")
    ids = np.array([student.tokenizer.encode(TEXTS[0]).ids], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    written, exact_logits = (
        onnx_run(path)(inputs) for path in (folder / f"onnx/{file}.onnx", workspace / "data/export/student.fp32.onnx")
    )
    assert softmax(written) == pytest.approx(softmax(exact_logits, TEMPERATURE), abs=1e-6 if exact else 0.05)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "$" not in readme
    assert f"the answers to {len(TEXTS)} dev texts are those of the fp32 model" in readme


def test_nothing_is_written_unless_the_answers_are_those_of_fp32(workspace: Path) -> None:
    folder = export(workspace)
    before = read_json(folder / "manifest.json")
    path = workspace / "data/export/student.fp32.onnx"
    model = onnx.load(path)
    (bias,) = [weight for weight in model.graph.initializer if weight.name == "model.classifier.bias"]
    bias.CopyFrom(numpy_helper.from_array(np.full(2, np.nan, np.float32), bias.name))
    onnx.save(model, path)
    write_manifest(path.parent)
    with pytest.raises(ParityError, match=r"^0.00% of the answers to 60 dev texts .*nothing was written; give --fp32"):
        export(workspace)
    assert read_json(folder / "manifest.json") == before
    assert [item.name for item in folder.parent.iterdir()] == ["web"]


def test_a_folder_with_something_else_is_not_replaced(workspace: Path) -> None:
    site = workspace / "exports/web"
    site.mkdir(parents=True)
    export(workspace)  # an empty folder is
    (site / "manifest.json").unlink()
    with pytest.raises(ParamsError, match="something else"):
        export(workspace)
    assert (site / "index.html").exists()


def test_a_student_of_spans_is_refused(workspace: Path, tiny_base: Path, tmp_path: Path) -> None:
    shutil.rmtree(workspace / "data/serving")
    write_span_model(tiny_base, workspace / "data/serving", "token_classification")
    with pytest.raises(ModelError, match="token_classification student cannot be exported"):
        export(workspace)


def test_an_int8_version_needs_the_fp32_model_it_was_made_of(workspace: Path) -> None:
    older = workspace / "older"
    shutil.copytree(workspace / "data/serving", older)
    assert find_source(workspace, older).fp32 == workspace / "data/export/student.fp32.onnx"
    (older / "model.onnx").write_bytes(b"another")
    write_manifest(older)
    with pytest.raises(RegistryError, match="only the INT8 model of this version is registered"):
        find_source(workspace, older)
    card = read_json(older / "model.json")
    write_json(older / "model.json", card | {"variant": "fp32"})
    write_manifest(older)
    assert find_source(workspace, older).fp32 == older / "model.onnx"


def test_altered_files_are_refused(workspace: Path) -> None:
    (workspace / "data/export/student.fp32.onnx").write_bytes(b"")
    with pytest.raises(ChecksumError, match="altered"):
        export(workspace)


def test_without_openvino_the_sentence_says_how_to_install_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ToolError, match=r"pip install 'potstill\[openvino\]'"):
        export(workspace, "openvino")
    assert not (workspace / "exports/openvino").exists()
