from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from potstill.artifacts import MANIFEST, read_json, sha256_file, write_json, write_manifest, write_text
from potstill.config.evaluation_params import Slices
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.config.promotion_params import Gate
from potstill.evaluation.gates import Verdict
from potstill.evaluation.pages.decision_page import PLACEHOLDER, SLOTS, slot
from tasks.gate import gate
from tests.checkout import git

REPOSITORY = Path(__file__).resolve().parents[2]
# Gold label 1 for the first four, 0 for the rest.
TEXTS = ["good film", "good plot", "fine film", "fine plot", "bad film", "bad plot", "poor film", "poor plot"]
GOLD = [1, 1, 1, 1, 0, 0, 0, 0]


def _write_words(folder: Path, scores: dict[str, float], labels: list[Any] | None = None, **card: Any) -> Path:
    """A real serving folder whose logits are (0, sum of the words' scores); its vocabulary is its own."""
    folder.mkdir(parents=True)
    vocabulary = {word: index for index, word in enumerate(["[UNK]", *scores])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.zeros((len(vocabulary), 2), dtype=np.float32)
    table[1:, 1] = list(scores.values())
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["found"]),
            helper.make_node("ReduceSum", ["found", "axes"], ["logits"], keepdims=0),
        ],
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    about = {
        "format": 1, "task": "classification", "variant": "int8", "labels": labels or ["no", "yes"], "pair": False,
        "max_length": 16, "pad_token_id": 0, "temperature": 1.0, "inputs": ["input_ids"],
    }  # fmt: skip
    write_json(folder / "model.json", about | card)
    write_manifest(folder)
    return folder


def _metrics(root: Path, accuracy: float) -> dict[str, Any]:
    candidate = {"accuracy": accuracy, "macro_f1": 0.9, "ece": 0.01, "megabytes": 1.0, "p99_ms": 1.0}
    return {
        "shipped": "int8",
        "rows": len(TEXTS),
        "test_sha256": sha256_file(root / "data/prepared/test.parquet"),
        "serving_sha256": sha256_file(root / "data/serving" / MANIFEST),
        "evaluation_sha256": sha256_file(root / "data/evaluation" / MANIFEST),
        "models": {"int8": candidate, "teacher": {"accuracy": 1.0}},
        "comparison": {"teacher_ratio": 1.0, "gain_over_control": 0.1, "control": {"high": 0.2}, "speedup": 5.0},
    }


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A candidate that is right on 7 of 8 texts, and its evaluation."""
    root = tmp_path / "workspace"
    for name in ("prepared", "evaluation"):
        (root / "data" / name).mkdir(parents=True)
    table = {"id": [str(number) for number in range(len(TEXTS))], "text": TEXTS, "label": GOLD}
    pq.write_table(pa.table(table), root / "data/prepared/test.parquet")
    (root / "data/evaluation/predictions.parquet").write_bytes(b"predictions")
    write_manifest(root / "data/evaluation")
    _write_words(root / "data/serving", {"good": 1, "fine": 1, "bad": -1, "poor": -1, "plot": 0})
    write_json(root / "reports/metrics.json", _metrics(root, 7 / 8))
    return root


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(REPOSITORY / "params.yaml").model_copy(update={"gate": Gate(min_accuracy=0.8)})


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def _report(workspace: Path) -> dict[str, Any]:
    verdict_file: dict[str, Any] = read_json(workspace / "reports/gate.json")
    return verdict_file


def test_a_first_candidate_needs_no_champion(params: Params, workspace: Path) -> None:
    verdict = gate(params, workspace, None)
    assert verdict.passed, verdict.sentence
    report = _report(workspace)
    assert report["passed"] is True
    assert report["champion"] is None
    assert report["serving_sha256"] == sha256_file(workspace / "data/serving" / MANIFEST)
    assert [check["name"] for check in report["checks"]] == [check.name for check in verdict.checks]


def test_the_report_says_what_the_gate_said_of_its_latest_candidate(params: Params, workspace: Path) -> None:
    write_text(workspace / "reports/student.html", f"<h1>accuracy 0.875</h1>{PLACEHOLDER}")
    gate(params, workspace, None)
    passed = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "accuracy 0.875" in passed
    assert "The gate passed this candidate" in passed
    strict = params.model_copy(update={"gate": Gate(min_accuracy=0.9)})
    verdict = gate(strict, workspace, None)
    refused = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "The gate refused this candidate, so it does not ship" in refused
    assert verdict.sentence == f"refused: {re.findall('<li>(.*)</li>', refused)[0]}"


def test_the_report_compares_the_champion_and_lists_the_rows_that_differ(
    params: Params, workspace: Path, tmp_path: Path
) -> None:
    write_text(workspace / "reports/student.html", "".join(map(slot, SLOTS)))
    champion = _write_words(tmp_path / "champion", {"plot": 0, "bad": -1, "good": 1})
    gate(params, workspace, champion, "3")
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "Champion, version 3" in page
    # Right on 6 of 8, with Wilson's interval; the served candidate on all.
    assert "75.0 (40.9 to 92.9)" in page
    assert "+25.0 (" in page
    differing = page[page.index('id="champion"') :]
    assert [text for text in TEXTS if f"<td>{text}</td>" in differing] == ["fine film", "fine plot"]
    assert "gained (2)" in differing


def test_the_report_names_what_the_run_has(params: Params, workspace: Path) -> None:
    write_text(workspace / "reports/student.html", "".join(map(slot, SLOTS)))
    write_text(workspace / "dvc.yaml", "stages: {teacher: {}, distill: {}, export: {}}")
    for name, seconds in (("distill", 61.25), ("teacher", 30.5)):
        timing = {"seconds": seconds, "work": {"training": seconds - 10}}
        write_json(workspace / f".work/timings/{name}.json", timing)
    write_json(workspace / "data/prepared/report.json", {"removed": {"copies": 7, "empty": 0}})
    checks = [{"what": "enough rows", "success": False}, {"what": "an id in every row", "success": True}]
    write_json(workspace / "data/validation/result.json", {"expectations": 2, "failed": 1, "suites": {"test": checks}})
    profile = {
        "rows": {"test": 8},
        "lengths": {"test": {"edges": list(range(1, 10)), "shares": []}},
        "labels": {"test": {"<no>": 0.5, "yes": 0.5}},
    }
    write_json(workspace / "data/validation/profile.json", profile)
    gate(params, workspace, None)
    page = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert page.index("<td>teacher</td>") < page.index("<td>distill</td>") < page.index("<td>all stages</td>")
    for expected in ("91.8", "enough rows (test)", "7 (copies).", "&lt;no&gt; 50.0% · yes 50.0%", "none yet"):
        assert expected in page


def test_the_champion_is_scored_on_the_same_texts_with_its_own_tokenizer(
    params: Params, workspace: Path, tmp_path: Path
) -> None:
    # Knows neither "fine" nor "poor": those four texts get logits (0, 0) and so class 0. Right on 6 of 8.
    champion = _write_words(tmp_path / "champion", {"plot": 0, "bad": -1, "good": 1})
    verdict = gate(params, workspace, champion)
    assert verdict.passed, verdict.sentence
    assert _report(workspace)["champion"]["accuracy"] == 0.75
    assert next(check for check in verdict.checks if check.name == "max_loss_to_champion").value == -0.125


def test_a_better_champion_stays_and_the_sentence_says_by_how_much(
    params: Params, workspace: Path, tmp_path: Path
) -> None:
    champion = _write_words(tmp_path / "champion", {"good": 1, "fine": 1, "bad": -1, "poor": -1})
    verdict = gate(params, workspace, champion)
    assert _failed(verdict) == ["max_loss_to_champion"]
    assert verdict.sentence == (
        "refused: accuracy lost to the champion 0.125 is 0.12 above its maximum of 0.005 (gate.max_loss_to_champion)"
    )
    assert _report(workspace)["sentence"] == verdict.sentence


def test_labels_are_matched_by_name_not_by_place(params: Params, workspace: Path, tmp_path: Path) -> None:
    scores = {"good": -1.0, "fine": -1.0, "bad": 1.0, "poor": 1.0}
    champion = _write_words(tmp_path / "champion", scores, labels=["yes", "no"])
    gate(params, workspace, champion)
    assert _report(workspace)["champion"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"labels": ["no", "maybe"]}, "its labels (maybe, no) are not the candidate's (no, yes)"),
        ({"pair": True}, "pairs"),
    ],
)
def test_a_champion_of_another_task_fails_the_candidate_with_a_sentence(
    params: Params, workspace: Path, tmp_path: Path, card: dict[str, Any], words: str
) -> None:
    verdict = gate(params, workspace, _write_words(tmp_path / "champion", {"good": 1}, **card))
    assert _failed(verdict) == ["max_loss_to_champion"]
    assert words in verdict.sentence


def test_a_champion_that_is_damaged_answers_nan_or_is_gone_fails_the_candidate(
    params: Params, workspace: Path, tmp_path: Path
) -> None:
    broken = _write_words(tmp_path / "broken", {"good": 1})
    (broken / "model.onnx").write_bytes(b"bit rot")
    sick = _write_words(tmp_path / "sick", {"good": float("nan")})
    mixed = _write_words(tmp_path / "mixed", {"good": 1})  # with a vocabulary beyond its model's
    longer = _write_words(tmp_path / "longer", {"good": 1, "bad": 1, "film": 1})
    (mixed / "tokenizer.json").write_bytes((longer / "tokenizer.json").read_bytes())
    write_manifest(mixed)
    for champion, words in (
        (broken, "altered"),
        (sick, "NaN"),
        (mixed, "out of"),
        (tmp_path / "gone", "manifest.json"),
    ):
        verdict = gate(params, workspace, champion)
        assert _failed(verdict) == ["max_loss_to_champion"]
        assert words in verdict.sentence


@pytest.mark.parametrize(
    ("test", "margin", "passes"),
    [("non_inferiority", 0.7, True), ("non_inferiority", 0.4, False), ("superiority", 1.0, False)],
)
def test_the_champion_is_compared_row_by_row(
    params: Params, workspace: Path, tmp_path: Path, test: str, margin: float, passes: bool
) -> None:
    champion = _write_words(tmp_path / "champion", {"good": 1, "fine": 1, "bad": -1, "poor": -1, "plot": 0})
    _write_words(tmp_path / "candidate", {"good": 1, "fine": 1, "bad": 1, "poor": -1})
    for name in ("model.onnx", "tokenizer.json", "manifest.json"):
        (workspace / "data/serving" / name).write_bytes((tmp_path / "candidate" / name).read_bytes())
    write_json(workspace / "reports/metrics.json", _metrics(workspace, 6 / 8))
    limits = Gate.model_validate({"champion_test": test, "max_loss_to_champion": margin})
    verdict = gate(params.model_copy(update={"gate": limits}), workspace, champion)
    comparison = _report(workspace)["champion"]["comparison"]
    assert (comparison["difference"], comparison["rows"], comparison["low"] < -0.4) == (-0.25, 8, True)
    check = next(check for check in verdict.checks if check.name == "max_loss_to_champion")
    assert check.passed is passes, check.sentence
    assert check.rows == 8


def test_slices_are_compared_with_the_champion(params: Params, workspace: Path, tmp_path: Path) -> None:
    champion = _write_words(tmp_path / "champion", {"good": 1, "fine": 1, "bad": -1, "poor": -1})
    limits = Gate(max_slice_loss=0.0, max_loss_to_champion=None)
    evaluate = params.evaluate.model_copy(update={"slices": Slices(min_rows=4, length_bands=None)})
    judged = params.model_copy(update={"gate": limits, "evaluate": evaluate})
    verdict = gate(judged, workspace, champion)
    slices = _report(workspace)["champion"]["slices"]["slices"]
    assert [(part["name"], part["rows"]) for part in slices] == [("label = no", 4), ("label = yes", 4)]
    check = next(check for check in verdict.checks if check.name == "max_slice_loss")
    assert check.passed
    assert check.sentence == "on none of 2 slices the champion is better beyond noise"
    unknown = evaluate.model_copy(update={"slices": Slices(columns=["source"])})
    verdict = gate(judged.model_copy(update={"evaluate": unknown}), workspace, champion)
    assert _failed(verdict) == ["max_slice_loss"]
    assert "the column 'source', which the test split does not have" in verdict.sentence


def test_without_limits_on_the_champion_it_is_compared_and_not_judged(
    params: Params, workspace: Path, tmp_path: Path
) -> None:
    champion = _write_words(tmp_path / "champion", {"good": 1, "fine": 1, "bad": -1, "poor": -1})
    evaluate = params.evaluate.model_copy(update={"slices": Slices(min_rows=4, length_bands=None)})
    limits = params.gate.model_copy(update={"max_loss_to_champion": None})
    off = params.model_copy(update={"gate": limits, "evaluate": evaluate})
    assert gate(off, workspace, champion).passed
    compared = _report(workspace)["champion"]
    assert compared["comparison"]["rows"] == 8
    assert "parameters" not in compared
    assert compared["megabytes"] == (champion / "model.onnx").stat().st_size / 1e6
    assert [part["name"] for part in compared["slices"]["slices"]] == ["label = no", "label = yes"]
    assert gate(off, workspace, tmp_path / "gone").passed
    assert "manifest.json" in _report(workspace)["champion"]["problem"]


@pytest.mark.parametrize(
    "content", [None, "", "[1]", "{", '{"models": {"int8": {"accuracy": NaN}}, "shipped": "int8"}']
)
def test_metrics_that_are_missing_or_broken_fail(params: Params, workspace: Path, content: str | None) -> None:
    path = workspace / "reports/metrics.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    verdict = gate(params, workspace, None)
    assert not verdict.passed
    assert _report(workspace)["passed"] is False


@pytest.mark.parametrize("name", ["serving", "evaluation"])
def test_numbers_of_another_candidate_or_evaluation_do_not_count(params: Params, workspace: Path, name: str) -> None:
    write_manifest(workspace / "data" / name, {"made": "again"})
    verdict = gate(params, workspace, None)
    assert _failed(verdict) == [f"{name}_sha256"]
    assert f"metrics.json is not about the current data/{name}; run the evaluate stage again" in verdict.sentence


def test_params_that_nobody_could_review_fail_where_params_ask(
    params: Params, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.gate.ROOT", workspace)  # a checkout of the code
    strict = params.model_copy(update={"gate": Gate(min_accuracy=0.8, require_clean_git=True)})
    assert "is in no git repository with a commit" in gate(strict, workspace, None).sentence
    for name in ("params.yaml", "dvc.yaml"):
        write_text(workspace / name, "a: 1\n")

    git(workspace, "init")
    git(workspace, "add", "params.yaml")
    git(workspace, "commit", "-m", "params")
    assert "not as in the commit: dvc.yaml (gate.require_clean_git)" in gate(strict, workspace, None).sentence
    git(workspace, "add", "dvc.yaml")
    git(workspace, "commit", "-m", "stages")
    assert gate(strict, workspace, None).passed
    write_text(workspace / "tasks/gate.py", "")  # installed there: not tracked
    assert gate(strict, workspace, None).passed
    git(workspace, "add", "tasks")
    git(workspace, "commit", "-m", "code")
    assert gate(strict, workspace, None).passed
    write_text(workspace / "tasks/gate.py", "a = 1")
    assert "not as in the commit: tasks (gate.require_clean_git)" in gate(strict, workspace, None).sentence
    git(workspace, "checkout", "tasks")
    write_text(workspace / "params.yaml", "a: 2\n")
    assert _failed(gate(strict, workspace, None)) == ["require_clean_git"]
    assert gate(params, workspace, None).passed


@pytest.mark.parametrize("file", ["serving/model.onnx", "evaluation/predictions.parquet"])
def test_a_flipped_bit_fails(params: Params, workspace: Path, file: str) -> None:
    path = workspace / "data" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    verdict = gate(params, workspace, None)
    assert _failed(verdict) == [f"{file.split('/')[0]}_sha256"]
    assert "altered" in verdict.sentence


def test_other_test_rows_fail(params: Params, workspace: Path) -> None:
    path = workspace / "data/prepared/test.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert _failed(gate(params, workspace, None)) == ["test_sha256"]
    path.unlink()
    assert _failed(gate(params, workspace, None)) == ["test_sha256"]


@given(value=some.one_of(some.none(), some.just(float("nan")), some.just(float("inf")), some.text(max_size=3)))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_number_that_is_none_never_passes(params: Params, workspace: Path, value: Any) -> None:
    metrics = _metrics(workspace, 0.9)
    metrics["comparison"]["teacher_ratio"] = value
    (workspace / "reports/metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert _failed(gate(params, workspace, None)) == ["min_teacher_ratio"]
    assert _report(workspace)["passed"] is False


def test_a_verdict_replaces_the_last_one_whole(params: Params, workspace: Path) -> None:
    gate(params, workspace, None)
    (workspace / "reports/metrics.json").unlink()
    gate(params, workspace, None)
    assert sorted(path.name for path in (workspace / "reports").iterdir()) == ["gate.json"]
    assert "metrics.json is missing" in _report(workspace)["sentence"]
