"""Every task of a sentence, from raw rows to a service, on generated rows and a tiny random model."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from potstill.artifacts import read_json
from potstill.config.params_file import load_params
from tests.conftest import BAD, GOOD, NEUTRAL
from tests.e2e.test_tiny import STAGES
from tests.tasks.data_workspace import make_workspace, run_stages

TRAINING = {"learning_rate": 0.005, "batch_tokens": 512, "average_decay": 0.9}
GENTLE = {"learning_rate": 0.003, "batch_tokens": 256}
COMMON: dict[str, dict[str, Any]] = {
    "project": {"name": "reviews", "precision": "fp32", "device": "cpu"},
    "tokenize": {"max_length": 48},
    "teacher": TRAINING | {"epochs": 6},
    "distill": TRAINING | {"epochs": 6, "layers": [0, 2]},
    "finetune": {"batch_tokens": 512},
    "control": TRAINING | {"epochs": 3},
    "export": {"int8_min_agreement": 0.8, "int8_max_accuracy_drop": 0.1},
    "quantize": {"teacher": False},  # an export of seconds, which tests/tasks/test_every_task.py has
    "evaluate": {"latency_texts": 10, "throughput_texts": 20, "rounds": 1, "bootstrap": 200},
    "smoke": {"texts": 8},
}
GATE = {
    "min_accuracy": None, "min_macro_f1": None, "max_ece": None, "min_speedup": None, "min_teacher_ratio": 0.5,
    "min_advantage": None, "min_gain_over_control_upper": None,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A task: its rows, what params say of them, what the teacher has to reach, and what the service answers."""

    rows: Callable[[random.Random], dict[str, Any]]
    prepare: dict[str, Any]
    validate: dict[str, Any]
    gate: dict[str, Any]
    key: str
    text: Any
    answers: Callable[[dict[str, Any]], bool]


def _text(generator: random.Random, good: int, bad: int) -> str:
    chosen = generator.choices(NEUTRAL, k=generator.randint(4, 8))
    chosen += generator.choices(GOOD, k=good) + generator.choices(BAD, k=bad)
    generator.shuffle(chosen)
    return " ".join(chosen)


def _several(generator: random.Random) -> dict[str, Any]:
    good, bad = generator.randint(0, 1) * 3, generator.randint(0, 1) * 3
    labels = (["praise"] if good else []) + (["blame"] if bad else [])
    return {"text": _text(generator, good, bad), "labels": labels}


def _number(generator: random.Random) -> dict[str, Any]:
    good = generator.randint(0, 4)
    return {"text": _text(generator, good, 4 - good), "stars": good - 2 + generator.uniform(-0.2, 0.2)}


ROWS = {"min_rows": {"train": 100, "dev": 10, "test": 20, "transfer": 0}}
CASES = {
    "multi_label": Case(
        _several,
        {"task": "multi_label", "label": {"kind": "column", "column": "labels"}, "augment": {}},
        ROWS | {"min_per_class": 5},
        {"min_score": 0.68, "min_micro_f1": 0.68, "min_macro_f1": 0.6, "min_subset_accuracy": 0.2, "max_ece": 0.5},
        "micro_f1",
        f"{' '.join(GOOD[:3])} {' '.join(NEUTRAL[:6])}",
        lambda found: (
            set(found) == {"labels", "probabilities", "truncated"}
            and found["labels"] == [label for label, value in found["probabilities"].items() if value > 0.5]
            and found["probabilities"]["praise"] > found["probabilities"]["blame"]
        ),
    ),
    "regression": Case(
        _number,
        {"task": "regression", "label": {"kind": "number", "column": "stars", "range": [-3, 3]}, "augment": {}},
        ROWS | {"target": [-3, 3], "min_per_class": None},
        {"min_score": 0.3, "max_mse": 1.5, "max_mae": 1.2, "min_pearson": 0.5, "min_spearman": 0.5},
        "r2",
        f"{' '.join(GOOD[:4])} movie",
        lambda found: set(found) == {"score", "truncated"} and found["score"] > 0.5,
    ),
    "pairs": Case(
        _number,
        {"label": {"kind": "order", "column": "stars", "min_gap": 2.0}},
        ROWS | {"min_per_class": 3},
        {"min_score": 0.6, "min_accuracy": 0.6},
        "accuracy",
        [f"movie {' '.join(GOOD[:4])}", f"movie {' '.join(BAD[:4])}"],
        lambda found: found["label"] == "first",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_task_from_rows_to_a_service(
    name: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, generator = CASES[name], random.Random(5)
    rows = tmp_path / "rows.jsonl"
    count = {"pairs": 1200, "multi_label": 600, "regression": 300}[name]
    rows.write_text("".join(json.dumps(case.rows(generator)) + "\n" for _ in range(count)), encoding="utf-8")
    sections = COMMON | {"prepare": case.prepare, "gate": GATE | case.gate, "validate": case.validate}
    if name == "multi_label":  # the tiny model learns one label after the other
        sections |= {stage: COMMON[stage] | GENTLE for stage in ("teacher", "distill", "control")}
    folder = make_workspace(tmp_path / "w", rows, tiny_base, **sections)
    results = dict(zip(STAGES, run_stages(*STAGES, monkeypatch=monkeypatch, folder=folder), strict=True))
    _check_scores(folder, case, results)
    _check_pipeline(folder, case)
    _check_service(folder, case, tmp_path, monkeypatch)


def _check_scores(folder: Path, case: Case, results: dict[str, Any]) -> None:
    from rich.console import Console

    from potstill.evaluation.pages.table import render_table

    metrics = read_json(folder / "reports/metrics.json")
    for model in metrics["models"].values():
        assert model[f"{case.key}_low"] <= model[case.key] <= model[f"{case.key}_high"]
        assert all(np.isfinite(value) for value in model.values())
    assert metrics["models"]["teacher"][case.key] > 0.6
    assert f"dev_{case.key}" in results["teacher"].metrics
    console = Console(width=80, record=True, quiet=True)
    console.print(render_table(metrics))
    page = (folder / "reports/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(list((folder / "data/evaluation/plots").iterdir())) + 1


def _check_pipeline(folder: Path, case: Case) -> None:
    """The saved student is a normal folder of transformers and answers as the exported one."""
    from transformers import pipeline

    from potstill.inference.runtime import Student

    ask = case.text if isinstance(case.text, str) else {"text": case.text[0], "text_pair": case.text[1]}
    classify = pipeline("text-classification", model=str(folder / "data/student"), device="cpu", top_k=None)
    scores = classify([ask])[0]
    served = Student(folder / "data/serving")
    (answer,) = served.predict([case.text if isinstance(case.text, str) else tuple(case.text)])
    logits = dict(zip(map(str, served.card.labels), answer.logits, strict=True))
    expected = {
        "regression": lambda value: value,
        "multi_label": lambda value: 1 / (1 + np.exp(-value)),
        "single_label": lambda value: np.exp(value) / sum(np.exp(list(logits.values()))),
    }[served.card.kind]
    for item in scores:
        assert item["score"] == pytest.approx(expected(logits[item["label"]]), abs=0.1)


def _check_service(folder: Path, case: Case, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged, packaged, served, and loaded through MLflow's own format."""
    from tasks.gate import gate
    from tasks.package import package
    from tasks.smoke import compare_bento, served

    monkeypatch.setenv("BENTOML_HOME", str(home / "bentoml"))
    for path in ("bentofile.yaml",):
        (folder / path).write_bytes((Path(__file__).parents[2] / path).read_bytes())
    params = load_params(folder / "params.yaml")
    verdict = gate(params, folder, folder / "data/serving")
    assert verdict.passed, verdict.sentence
    assert {"min_score", "max_loss_to_champion"} <= {check.name for check in verdict.checks}
    packaged = package(params, folder)
    with served(packaged.tag, home / "log.txt", 60) as address:
        assert compare_bento(address, "", folder, packaged.path, params) <= params.smoke.tolerance
        found = _ask(f"{address}/v1/classify", {"texts": [case.text]})["predictions"][0]
        assert case.answers(found), found
        scores = _ask(f"{address}/predict", {"inputs": case.text})
        assert [item["score"] for item in scores] == sorted((item["score"] for item in scores), reverse=True)
        described = _ask(f"{address}/openapi.json", None)
        assert "predictions" in json.dumps(described)
    _check_pyfunc(folder, case, found, home)


def _ask(address: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _check_pyfunc(folder: Path, case: Case, found: dict[str, Any], home: Path) -> None:
    import pandas as pd
    from mlflow import pyfunc

    from tasks.register import _save_model

    _save_model(folder / "data/serving", home / "model", None)
    texts = [case.text] if isinstance(case.text, str) else list(case.text)
    frame = pd.DataFrame([texts], columns=["text", "text_pair"][: len(texts)])
    answer = pyfunc.load_model(str(home / "model")).predict(frame).iloc[0].to_dict()
    assert answer == {key: value for key, value in found.items() if key != "truncated"} or answer == {
        **{key: value for key, value in found.items() if key in ("label", "labels")},
        **{key: pytest.approx(value) for key, value in found["probabilities"].items()},
    }
    assert pq.read_schema(folder / "data/prepared/test.parquet").names[-1] == "label"
