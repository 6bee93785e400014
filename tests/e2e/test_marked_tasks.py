"""Tasks whose answers are places in a text, from raw rows to a service, on generated rows and a tiny random model."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from potstill.artifacts import read_json
from potstill.config.params_file import load_params
from tests.conftest import REPOSITORY
from tests.e2e.test_tasks import COMMON, GATE
from tests.marked import PEOPLE, PLACES, question_rows, tagged_rows, write_jsonl
from tests.tasks.data_workspace import make_workspace, run_stages

ROWS = {"min_rows": {"train": 100, "dev": 10, "test": 20, "transfer": 0}}
STAGES = [
    *("ingest", "prepare", "validate", "pretrain", "tokenize", "teacher", "signals"),
    *("general", "distill", "finetune", "control", "proof", "export", "quantize", "evaluate"),
]
CLASSLESS = {"min_per_class": None, "max_class_share": None}
LONG = "the village with the doctor sister and some camera near our forest kitchen " * 8


def run(folder: Path, rows: list[dict[str, Any]], base: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> Path:
    path = write_jsonl(folder / "rows.jsonl", rows)
    workspace = make_workspace(folder / "w", path, base, **(COMMON | sections))
    run_stages(*STAGES, monkeypatch=monkeypatch, folder=workspace)
    return workspace


def ask(address: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@contextmanager
def service(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Gate, package and serve; yields the address of a service that answers as evaluated."""
    from tasks.gate import gate
    from tasks.package import package
    from tasks.smoke import compare_bento, served

    shutil.copy(REPOSITORY / "bentofile.yaml", folder)
    params = load_params(folder / "params.yaml")
    verdict = gate(params, folder, folder / "data/serving")
    assert verdict.passed, verdict.sentence
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    packaged = package(params, folder)
    with served(packaged.tag, tmp_path / "log.txt", 240) as address:
        assert compare_bento(address, "", folder, packaged.path, params) <= params.smoke.tolerance
        yield address


def test_entities(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import pipeline

    from potstill.inference.runtime import Student

    rows = tagged_rows(300)
    rows[0] = {"tokens": LONG.split(), "tags": ["B-LOC" if word == "village" else "O" for word in LONG.split()]}
    prepare = {"task": "token_classification", "text": "tokens", "label": {"kind": "tags", "column": "tags"},
               "augment": {}}  # fmt: skip
    gate = GATE | {"min_score": 0.8, "min_macro_f1": 0.8, "max_ece": 0.5}
    folder = run(tmp_path, rows, tiny_base, monkeypatch, prepare=prepare, validate=ROWS, gate=gate)
    info = read_json(folder / "data/tokens/info.json")
    counts = info["splits"]
    assert sum(split["unseen"] for split in counts.values()) == 0  # a long text is read in windows
    assert sum(split["truncated"] for split in counts.values()) >= 1
    assert sum(split["rows"] - split["texts"] for split in counts.values()) >= 1
    metrics = read_json(folder / "reports/metrics.json")
    for model in metrics["models"].values():
        assert model["f1_low"] <= model["f1"] <= model["f1_high"]
        assert {"precision", "recall", "macro_f1", "ece"} <= set(model)
        assert all(np.isfinite(value) for value in model.values())
    assert metrics["models"]["teacher"]["f1"] > 0.9
    assert metrics["models"]["int8"]["f1"] > 0.8
    assert "entity F1" in (folder / "reports/report.html").read_text(encoding="utf-8")
    student = Student(folder / "data/serving")
    text = f"with the {PEOPLE[0]} {PEOPLE[-1]} and our {PLACES[0]} story"
    (tagging,) = student.tag([text])
    found = [(entity.type, entity.text) for entity in tagging.entities]
    assert found == [("PER", f"{PEOPLE[0]} {PEOPLE[-1]}"), ("LOC", PLACES[0])]
    assert all(text[entity.start : entity.end] == entity.text for entity in tagging.entities)
    tag = pipeline(
        "token-classification", model=str(folder / "data/student"), device="cpu", aggregation_strategy="simple"
    )
    assert [(group["entity_group"], text[group["start"] : group["end"]]) for group in tag(text)] == found
    evaluated = pq.read_table(folder / "data/evaluation/predictions.parquet").to_pylist()
    texts = pq.read_table(folder / "data/prepared/test.parquet").column("text").to_pylist()
    for row, one in zip(evaluated[:5], texts, strict=False):
        assert row["served"] == [vars(entity) for entity in student.tag([one])[0].entities]
    with service(folder, tmp_path, monkeypatch) as address:
        status, body = ask(address, "/v1/tag", {"texts": [text, LONG]})
        assert status == 200
        assert [(one["type"], one["text"]) for one in body["predictions"][0]["entities"]] == found
        assert body["predictions"][0]["windows"] == 1 < body["predictions"][1]["windows"]
        last = body["predictions"][1]["entities"][-1]
        assert last["start"] > len(LONG) * 7 // 8  # far beyond one window
        assert ask(address, "/v1/tag", {"texts": []})[0] == 422
        assert ask(address, "/v1/tag", {"texts": ["a"] * 33})[0] == 413
        assert ask(address, "/v1/tag", {"texts": ["a" * 20_001]})[0] == 413
        assert ask(address, "/v1/classify", {"texts": ["a"]})[0] == 404


def test_questions(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForQuestionAnswering

    from potstill.inference.runtime import Student

    rows = question_rows(400)
    prepare = {"task": "question_answering", "text": ["question", "context"], "label": {"kind": "answers"},
               "near_duplicate": None}  # fmt: skip
    folder = run(
        tmp_path, rows, tiny_base, monkeypatch, prepare=prepare, validate=ROWS | CLASSLESS, tokenize={"max_length": 24},
        gate=GATE | {"min_score": 0.1}, export={"int8_min_agreement": 0.5, "int8_max_accuracy_drop": 0.3},
    )  # fmt: skip
    counts = read_json(folder / "data/tokens/info.json")["splits"]["train"]
    assert counts["rows"] > counts["questions"] == counts["answers"]
    metrics = read_json(folder / "reports/metrics.json")
    for model in metrics["models"].values():
        assert model["f1_low"] <= model["f1"] <= model["f1_high"]
        assert model["exact_match"] <= model["f1"]
    assert metrics["models"]["teacher"]["f1"] > 0.6
    student = Student(folder / "data/serving")
    question, context = rows[0]["question"], rows[0]["context"]
    (reply,) = student.answer([(question, context)])
    assert reply.answer == context[reply.start : reply.end]
    assert reply.windows > 1
    AutoModelForQuestionAnswering.from_pretrained(folder / "data/student")
    with service(folder, tmp_path, monkeypatch) as address:
        status, body = ask(address, "/v1/answer", {"questions": [{"question": question, "context": context}]})
        assert status == 200
        assert body["predictions"][0]["answer"] == reply.answer
        assert body["predictions"][0]["score"] == pytest.approx(reply.score, abs=1e-4)
        assert ask(address, "/v1/answer", {"questions": [{"question": "a"}]})[0] == 422
        assert ask(address, "/v1/answer", {"questions": [{"question": "a", "context": "b" * 20_000}]})[0] == 413
