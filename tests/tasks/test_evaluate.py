from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file, save_file

from potstill.artifacts import MANIFEST, file_sums, read_json, sha256_file, verify, write_json, write_manifest
from potstill.config.base import SPLITS
from potstill.config.behaviour_params import Behaviour
from potstill.config.evaluation_params import Abstention, Quantize, Slices
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.tokenization import copy_tokenizer, load_tokenizer, write_tokens
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ChecksumError, ModelError
from potstill.evaluation.naming import MODELS
from potstill.evaluation.pages.table import render_table
from potstill.evaluation.summary import Answers
from potstill.evaluation.teacher_gain import write_answers
from potstill.inference.runtime import Student, read_card
from potstill.models.loading import load_classifier, save_model
from potstill.models.students.student import student_from_layers
from potstill.onnx_export.eight_bits import quantize_int8
from potstill.onnx_export.onnx_model import export_onnx, input_names
from potstill.pretrained.members import Member, write_members
from potstill.scores.probabilities import softmax
from tasks import quantize
from tasks.evaluate import run
from tasks.evidence import flat_metrics
from tasks.learning import teacher_logits, teacher_text_logits
from tasks.stage import Stage, load_stage
from tests.conftest import generate_rows

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = ["negative", "positive"]
ROWS = {"train": 20, "dev": 10, "test": 60, "transfer": 10}
MAX_LENGTH = 32
# As many of the rows of another domain are evaluated.
SHIFT_ROWS = 30
TEMPLATES = """
tests: [{name: always positive, kind: mft, text: TEXT, slots: {word: [b, c, d]}, label: positive}]
"""


def _params() -> Params:
    params = load_params(REPOSITORY / "params.yaml")
    project = params.project.model_copy(update={"device": "cpu"})
    evaluate = params.evaluate.model_copy(
        update={
            **{"latency_texts": 10, "throughput_texts": 64, "rounds": 2, "bootstrap": 200, "shift_rows": SHIFT_ROWS},
            "slices": Slices(length_bands=2, expressions={"<b>short</b>": "length < 90"}, min_rows=5),
            "behaviour": Behaviour(tests=["case_upper", "neutral_after"], rows=8, templates="behaviour.yaml"),
            "abstention": Abstention(),
        }
    )
    return params.model_copy(update={"project": project, "evaluate": evaluate})


def _write_data(root: Path, base: Path, *, pair: bool) -> None:
    prepared, tokens = root / "data/prepared", root / "data/tokens"
    prepared.mkdir(parents=True)
    tokens.mkdir()
    copy_tokenizer(base, tokens / "tokenizer")
    tokenizer = load_tokenizer(tokens / "tokenizer", MAX_LENGTH)
    rows, start, splits = generate_rows(sum(ROWS.values())), 0, {}
    for split in SPLITS:
        part = rows[start : start + ROWS[split]]
        start += ROWS[split]
        columns = {
            "id": pa.array([f"{split}-{number}" for number in range(len(part))]),
            "text": pa.array([text for text, _ in part]),
            "label": pa.array([None if split == "transfer" else LABELS.index(label) for _, label in part], pa.int64()),
        }
        if pair:
            columns["text_pair"] = pa.array([f"the {text.split()[0]}" for text, _ in part])
        table = pa.table(columns)
        pq.write_table(table, prepared / f"{split}.parquet")
        counts = write_tokens(table, tokenizer, tokens / f"{split}.arrow")
        splits[split] = {"rows": counts.rows, "tokens": counts.tokens, "truncated": counts.truncated}
    if not pair:
        shift = [(f"parcel {text}", label) for text, label in generate_rows(SHIFT_ROWS + 5, seed=9)]
        columns = {
            "id": pa.array([f"shift-{number}" for number in range(len(shift))]),
            "text": pa.array([text for text, _ in shift]),
            "label": pa.array([LABELS.index(label) for _, label in shift], pa.int64()),
        }
        pq.write_table(pa.table(columns), prepared / "shift.parquet")
    about = {
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
        "task": "single_label",
        "pair": pair,
        "token_types": pair,
        "labels": LABELS,
        "splits": splits,
    }
    write_json(tokens / "info.json", about)
    write_manifest(prepared)
    write_manifest(tokens)


def _write_models(root: Path, base: Path, *, pair: bool) -> None:
    torch.manual_seed(1)
    teacher = load_classifier(base, LABELS)
    with torch.no_grad():  # far enough apart that the models differ
        teacher.classifier.weight.mul_(20)
    models = {
        "teacher": teacher,
        "student": student_from_layers(teacher, [0, 2]),
        "control": student_from_layers(load_classifier(base, LABELS), [0, 2]),
        "initialised": student_from_layers(teacher, [1, 3]),
    }
    for name, model in models.items():
        save_model(model, root / "data" / name, root / "data/tokens/tokenizer")
    write_json(root / "data/teacher/calibration.json", {"temperature": 1.5})
    for name in models:
        write_manifest(root / "data" / name, {"choices": {name: 3}})
    _write_quantized(root, pair=pair)
    _write_proof(root)
    export, serving = root / "data/export", root / "data/serving"
    export.mkdir()
    export_onnx(models["student"], export / "student.fp32.onnx", pair=pair)
    quantize_int8(export / "student.fp32.onnx", export / "student.int8.onnx")
    write_manifest(export, {"choices": {"export": 2}})
    serving.mkdir()
    shutil.copyfile(export / "student.int8.onnx", serving / "model.onnx")
    shutil.copyfile(root / "data/tokens/tokenizer/tokenizer.json", serving / "tokenizer.json")
    card = {
        "format": 1, "task": "classification", "variant": "int8", "labels": LABELS, "pair": pair,
        "max_length": MAX_LENGTH, "pad_token_id": 0, "temperature": 2.0, "inputs": list(input_names(pair=pair)),
    }  # fmt: skip
    write_json(serving / "model.json", card)
    write_manifest(serving)


def _write_quantized(root: Path, *, pair: bool) -> None:
    """A quantized teacher of single texts, and none of pairs."""
    with _stage(root, "quantize") as stage:
        wanted = Quantize(teacher=not pair)
        quantize.run(replace(stage, sections={**stage.sections, "quantize": wanted}))


def _write_proof(root: Path) -> None:
    """Two further seeds, all of whose models are right on every row but the student of the last."""
    labels = TokenDataset.open(root / "data/tokens/test.arrow", 0).labels
    right = np.eye(2, dtype=np.float32)[labels]
    for seed, student in ((18, right), (19, 1 - right)):
        folder = root / f"data/proof/seed-{seed}"
        folder.mkdir(parents=True)
        logits = {"student": student, "pretrained": right, "initialised": right}
        write_answers(folder, labels, {name: Answers(found, 1.0, 10, 100) for name, found in logits.items()})
    write_manifest(root / "data/proof")


@contextlib.contextmanager
def _stage(root: Path, name: str = "evaluate") -> Iterator[Stage]:
    shutil.copyfile(REPOSITORY / "dvc.yaml", root / "dvc.yaml")
    pair = "text_pair" in pq.read_schema(root / "data/prepared/test.parquet").names
    text = '["{{<i>}} a {word}", "a film"]' if pair else '"{{<i>}} a {word}"'
    (root / "behaviour.yaml").write_text(TEMPLATES.replace("TEXT", text), encoding="utf-8")
    with contextlib.chdir(root):
        yield load_stage(name, _params())


@pytest.fixture(scope="module")
def workspace(slow: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the stage depends on, of tiny random models, and its outs."""
    root = tmp_path_factory.mktemp("evaluate")
    _write_data(root, tiny_base, pair=False)
    _write_models(root, tiny_base, pair=False)
    with _stage(root) as stage:
        assert run(stage).metrics["int8_accuracy"] >= 0
    return root


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(workspace, tmp_path / "copy"))


@pytest.fixture(scope="module")
def metrics(workspace: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_json(workspace / "reports/metrics.json")
    return found


def _logits(root: Path, name: str) -> np.ndarray:
    table = pq.read_table(root / "data/evaluation/predictions.parquet")
    return np.array(table.column(name).to_pylist(), dtype=np.float32)


@pytest.mark.slow
def test_metrics_have_the_documented_form(metrics: Mapping[str, Any]) -> None:
    assert metrics["shipped"] == "int8"
    assert metrics["rows"] == ROWS["test"]
    assert list(metrics["models"]) == [
        *("control", "initialised", "int8", "student", "teacher", "teacher_int8", "tfidf")
    ]
    scores = {"accuracy", "accuracy_low", "accuracy_high", "macro_f1", "ece", "temperature", "parameters", "megabytes"}
    speeds = {"p50_ms", "p99_ms", "texts_per_second"}
    for name, model in metrics["models"].items():
        timed = speeds if name not in ("control", "initialised") else set()
        assert set(model) == scores | timed | ({"fit_seconds"} if name == "tfidf" else set())
        assert all(math.isfinite(value) for value in model.values())
    assert {"agreement", "kl", "teacher_ratio", "gain_over_control", "speedup"} <= set(metrics["comparison"])


def test_metrics_name_the_bytes_they_are_about(workspace: Path, metrics: Mapping[str, Any]) -> None:
    assert metrics["evaluation_sha256"] == sha256_file(workspace / "data/evaluation" / MANIFEST)
    assert metrics["serving_sha256"] == sha256_file(workspace / "data/serving" / MANIFEST)
    assert metrics["test_sha256"] == sha256_file(workspace / "data/prepared/test.parquet")
    assert verify(workspace / "data/evaluation")["shipped"] == "int8"


def test_the_scores_follow_from_the_saved_predictions(workspace: Path, metrics: Mapping[str, Any]) -> None:
    table = pq.read_table(workspace / "data/evaluation/predictions.parquet")
    test = pq.read_table(workspace / "data/prepared/test.parquet")
    assert table.column_names == [
        *("id", "label", "teacher", "teacher_int8", "student", "int8", "control", "initialised", "tfidf")
    ]
    assert table.column("id").equals(test.column("id"))
    labels = table.column("label").to_numpy()
    for name, model in metrics["models"].items():
        assert model["accuracy"] == (_logits(workspace, name).argmax(axis=1) == labels).mean()
    agreement = (_logits(workspace, "teacher").argmax(axis=1) == _logits(workspace, "int8").argmax(axis=1)).mean()
    assert metrics["comparison"]["agreement"] == agreement


def test_speed_and_size_are_compared_with_both_forms_of_the_teacher(metrics: Mapping[str, Any]) -> None:
    rates = {name: model.get("texts_per_second") for name, model in metrics["models"].items()}
    comparison = metrics["comparison"]
    assert comparison["speedup_over_teacher"] == rates["int8"] / rates["teacher"]
    quantized = comparison["teacher_int8"]
    assert quantized["speedup"] == rates["int8"] / rates["teacher_int8"]
    assert comparison["speedup"] == min(comparison["speedup_over_teacher"], quantized["speedup"])
    sizes = {name: model["megabytes"] for name, model in metrics["models"].items()}
    assert quantized["smaller"] == sizes["teacher_int8"] / sizes["int8"] > 1
    assert quantized["low"] <= quantized["difference"] <= quantized["high"]
    assert metrics["quantized_teacher"] == {
        "member": 0, "members": 1, "parameters": metrics["models"]["teacher"]["parameters"],
    }  # fmt: skip


def test_the_quantized_teacher_answers_almost_as_the_teacher(workspace: Path) -> None:
    assert np.abs(_logits(workspace, "teacher_int8") - _logits(workspace, "teacher")).max() < 2
    same = _logits(workspace, "teacher_int8").argmax(axis=1) == _logits(workspace, "teacher").argmax(axis=1)
    assert same.mean() > 0.9
    assert read_card(workspace / "data/teacher_int8").variant == "int8"


def test_the_page_compares_with_the_quantized_teacher(workspace: Path) -> None:
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert ">Teacher INT8</td>" in page
    assert "the quantized teacher: " in page


def test_each_model_has_its_own_temperature_size_and_parameters(workspace: Path, metrics: Mapping[str, Any]) -> None:
    models = metrics["models"]
    assert {name: model["temperature"] for name, model in models.items()} == {
        "teacher": 1.5, "teacher_int8": read_card(workspace / "data/teacher_int8").temperature,
        "student": 2.0, "int8": 2.0,
        "control": 1.0, "initialised": 1.0, "tfidf": 1.0,
    }  # fmt: skip
    assert models["teacher"]["parameters"] > models["student"]["parameters"] == models["int8"]["parameters"]
    files = {
        "teacher": "teacher/model.safetensors", "student": "export/student.fp32.onnx",
        "int8": "export/student.int8.onnx", "control": "control/model.safetensors",
        "initialised": "initialised/model.safetensors", "teacher_int8": "teacher_int8/model.onnx",
    }  # fmt: skip
    for name, file in files.items():
        assert models[name]["megabytes"] == (workspace / "data" / file).stat().st_size / 1e6


def test_the_served_model_answers_as_it_was_evaluated(workspace: Path) -> None:
    student = Student(workspace / "data/serving")
    texts = pq.read_table(workspace / "data/prepared/test.parquet").column("text").to_pylist()
    expected = softmax(_logits(workspace, "int8"), 2.0)
    for text, row in zip(texts, expected, strict=True):  # a text alone, as in a request
        np.testing.assert_allclose(student.predict([text])[0].probabilities, row, atol=1e-6)


def test_the_student_in_torch_is_the_exported_one(workspace: Path) -> None:
    assert np.abs(_logits(workspace, "student") - _logits(workspace, "int8")).max() < 0.5
    assert (_logits(workspace, "student") != _logits(workspace, "control")).any()


def test_the_report_is_one_page_with_every_figure(workspace: Path) -> None:
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 8  # size, latency, coverage, and a reliability diagram for each model
    assert page.count('class="grid"') == 5
    assert "data/prepared" in page
    assert "The words that answers rest on" in page
    assert page.count('<div class="reason">') == 6
    # Rows on which teacher and candidate differ, or that there are none; and the errors.
    assert page.count("data-records>") + page.count("They agree on every test text.") == 2
    assert sorted(path.name for path in (workspace / "data/evaluation/plots").iterdir()) == [
        "coverage.svg", *(f"reliability-{model}.svg" for model in sorted(MODELS)), "size.svg",
    ]  # fmt: skip


def test_another_domain_is_scored_apart_from_test(workspace: Path, metrics: Mapping[str, Any]) -> None:
    shift = metrics["shift"]
    assert (metrics["rows"], shift["rows"]) == (ROWS["test"], SHIFT_ROWS)
    assert set(shift["models"]) == set(metrics["models"]) - {"student"}
    for model in shift["models"].values():
        assert model["accuracy_low"] <= model["accuracy"] <= model["accuracy_high"]
    assert set(shift["comparison"]) == set(shift["models"]) - {"int8"}
    gain = shift["models"]["int8"]["accuracy"] - shift["models"]["teacher"]["accuracy"]
    assert shift["comparison"]["teacher"]["difference"] == pytest.approx(gain)
    flat = flat_metrics(metrics, "int8")
    assert flat["shift_rows"] == SHIFT_ROWS
    assert flat["shift_over_control_low"] == shift["comparison"]["control"]["low"]
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "<h2>Another domain</h2>" in page


def test_slices_compare_the_candidate_with_teacher_and_controls(metrics: Mapping[str, Any]) -> None:
    slices = {part["name"]: part for part in metrics["slices"]["slices"]}
    assert {"label = negative", "label = positive"} <= slices.keys()
    assert sum(part["rows"] for name, part in slices.items() if name.startswith("label")) == ROWS["test"]
    for part in slices.values():
        assert list(part["rivals"]) == ["control", "initialised", "teacher"]
        assert part["low"] <= part["score"] <= part["high"]


def test_behaviour_is_that_of_candidate_and_teacher(workspace: Path, metrics: Mapping[str, Any]) -> None:
    tests = metrics["behaviour"]["tests"]
    assert set(tests) == {"case_upper", "neutral_after", "always positive"}
    for test in tests.values():
        assert set(test["models"]) == {"int8", "teacher"}
    assert tests["neutral_after"]["models"]["int8"]["rows"] == 8
    failures = read_json(workspace / "data/evaluation/behaviour.json")
    # A tiny model gives each of the three texts a class, so some model fails or none does; counts and texts agree.
    for name, models in failures.items():
        for model, examples in models.items():
            assert len(examples) == min(tests[name]["models"][model]["failures"], 5)
    texts = pq.read_table(workspace / "data/prepared/test.parquet").column("text").to_pylist()
    assert not any(text in (workspace / "reports/metrics.json").read_text(encoding="utf-8") for text in texts)


def test_the_teacher_reads_changed_texts_as_it_reads_those_of_a_split(workspace: Path) -> None:
    texts = pq.read_table(workspace / "data/prepared/test.parquet").column("text").to_pylist()
    with _stage(workspace) as stage:
        assert np.abs(teacher_text_logits(stage, texts) - teacher_logits(stage, "test")).max() < 1e-5


def test_abstention_is_found_on_dev_and_drawn_on_test(workspace: Path, metrics: Mapping[str, Any]) -> None:
    abstention = metrics["abstention"]
    assert abstention["threshold"] is None  # ten rows prove nothing
    assert abstention["choices"] == 3 * 3 * 2  # of the teacher, the student and the exported files
    assert abstention["curve"]["coverage"][-1] == 1
    assert abstention["curve"]["accuracy"][-1] == pytest.approx(metrics["models"]["int8"]["accuracy"])
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "no threshold is proven on dev to be right on 95.0% of its answers" in page


def test_the_page_shows_slices_and_behaviour_escaped(workspace: Path) -> None:
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    for title in ("Slices", "Behaviour", "Answering only where it is sure"):
        assert f">{title}</h2>" in page
    assert "&lt;b&gt;short&lt;/b&gt;" in page
    assert not {"<b>short", "<i>}"} & {match for match in ("<b>short", "<i>}") if match in page}


def test_mlflow_takes_the_names_of_all_metrics(metrics: Mapping[str, Any]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    numbers = flat_metrics(metrics, "int8")
    for name, value in numbers.items():
        _validate_metric_name(name)
        assert math.isfinite(value)
    assert numbers["slice_label_negative_rows"] + numbers["slice_label_positive_rows"] == ROWS["test"]
    assert {"behaviour_case_upper_failure_rate", "behaviour_case_upper_teacher_failure_rate"} <= numbers.keys()
    assert "slice__b_short_b__score" in numbers


def test_the_proof_is_of_what_ships_and_of_the_further_seeds(workspace: Path, metrics: Mapping[str, Any]) -> None:
    proof, models = metrics["proof"], metrics["models"]
    assert proof["seeds"] == [17, 18, 19]
    assert proof["models"]["student"]["accuracy"] == [models["int8"]["accuracy"], 1, 0]
    assert proof["models"]["pretrained"]["accuracy"] == [models["control"]["accuracy"], 1, 1]
    assert proof["models"]["initialised"]["ece"][0] == models["initialised"]["ece"]
    assert proof["models"]["student"]["agreement"][0] == metrics["comparison"]["agreement"]
    assert proof["verdicts"]["pretrained"]["differences"][1:] == [0, -1]
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "3 training seeds" in page
    assert ">19<" in page


def test_the_table_shows_every_model(metrics: Mapping[str, Any]) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_table(metrics))
    for name in ("Teacher", "Student fp32", "Student INT8", "Pretrained", "Initialised"):
        assert name in captured.get()


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(workspace: Path, copy: Path) -> None:
    before = file_sums(workspace / "data/evaluation")
    shutil.rmtree(copy / "data/evaluation")
    with _stage(copy) as stage:
        run(stage)
    assert file_sums(copy / "data/evaluation") == before
    assert not list(copy.glob("**/.*tmp*"))


def _damage(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = np.array([0, np.nan], dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_manifest(folder)


@pytest.mark.parametrize("name", ["teacher", "control"])
def test_a_model_that_answers_nan_stops_the_stage_and_leaves_the_outs(copy: Path, name: str) -> None:
    _damage(copy / "data" / name)
    before = file_sums(copy / "data/evaluation"), (copy / "reports/metrics.json").read_bytes()
    with (
        _stage(copy) as stage,
        pytest.raises(ModelError, match=rf"data/{name} answers NaN or infinity on 60 of 60 rows"),
    ):
        run(stage)
    assert (file_sums(copy / "data/evaluation"), (copy / "reports/metrics.json").read_bytes()) == before


def test_token_ids_of_other_rows_are_refused(copy: Path) -> None:
    path = copy / "data/prepared/test.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    write_manifest(copy / "data/prepared")
    with _stage(copy) as stage, pytest.raises(ChecksumError, match="different test rows"):
        run(stage)


@pytest.mark.slow
def test_fp32_that_ships_is_the_candidate(copy: Path) -> None:
    shutil.copyfile(copy / "data/export/student.fp32.onnx", copy / "data/serving/model.onnx")
    card = read_json(copy / "data/serving/model.json")
    write_json(copy / "data/serving/model.json", {**card, "variant": "fp32"})
    write_manifest(copy / "data/serving")
    with _stage(copy) as stage:
        run(stage)
    metrics = json.loads((copy / "reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["shipped"] == "fp32"
    models = metrics["models"]
    assert metrics["comparison"]["gain_over_control"] == pytest.approx(
        models["student"]["accuracy"] - models["control"]["accuracy"]
    )


@pytest.mark.slow
def test_pairs_of_texts(tiny_base: Path, tmp_path: Path) -> None:
    _write_data(tmp_path, tiny_base, pair=True)
    _write_models(tmp_path, tiny_base, pair=True)
    with _stage(tmp_path) as stage:
        run(stage)
    metrics = read_json(tmp_path / "reports/metrics.json")
    assert metrics["models"]["teacher"]["texts_per_second"] > 0
    # The served student saw both texts as the tokens say.
    assert np.abs(_logits(tmp_path, "student") - _logits(tmp_path, "int8")).max() < 0.5


@pytest.mark.slow
def test_a_teacher_of_several_models_is_scored_together_and_timed_alone(copy: Path, metrics: Mapping[str, Any]) -> None:
    teacher = copy / "data/teacher"
    members = [Member(teacher, 0.25), Member(teacher / "members/1", 0.75)]
    torch.manual_seed(9)
    second = load_classifier(copy / "data/control")
    with torch.no_grad():
        second.classifier.weight.mul_(40)
        second.classifier.bias.copy_(torch.tensor([5.0, -5.0]))
    save_model(second, members[1].folder, copy / "data/tokens/tokenizer")
    write_members(teacher, members)
    write_manifest(teacher, {"choices": {"teacher": 9}})
    with _stage(copy) as stage:
        run(stage)
    found = read_json(copy / "reports/metrics.json")
    ours = found["models"]["teacher"]
    test = TokenDataset.open(copy / "data/tokens/test.arrow", 0)
    logits = [predict_logits(load_classifier(member.folder), test) for member in members]
    wanted = 0.25 * softmax(logits[0], 1.0) + 0.75 * softmax(logits[1], 1.0)
    assert np.abs(softmax(_logits(copy, "teacher"), 1.0) - wanted).max() < 1e-5
    assert ours["accuracy"] == (wanted.argmax(axis=1) == test.labels).mean()
    assert (wanted.argmax(axis=1) != logits[0].argmax(axis=1)).any()
    assert ours["members"] == 2
    for name in ("parameters", "megabytes"):
        assert ours[name] == metrics["models"]["teacher"][name]
    assert "members" not in found["models"]["student"]
    phrase = "Teacher: scores of 2 models together; size and speed of the first alone"
    assert phrase in (copy / "reports/report.html").read_text(encoding="utf-8")
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_table(found))
    assert phrase in captured.get()
