"""Takes a task that this checkout does not have from params to the service; run by test_sixth_task.py.

Arguments: a folder with `raw/`, and a small encoder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from potstill.artifacts import write_json, write_manifest
from potstill.config.evaluation_params import Evaluate
from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.data.tokens.batches import Batch
from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.distillation.objective.composition import Blend
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised
from potstill.distillation.teachers.outputs import Outputs
from potstill.evaluation.pages.table import headers, rows
from potstill.evaluation.summary import Answers, compare, score
from potstill.inference.runtime import Student
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.onnx_export.onnx_model import export_onnx
from potstill.pretrained.heads import task_of
from potstill.serving.schemas import ANSWERING

TASK: Any = "next_sentence"


def main(folder: Path, base: Path) -> None:
    """Print what became of the task, as JSON."""
    prepared = _prepare(folder / "raw")
    model = load_classifier(base, ["0", "1"], TASK).eval()
    task = task_of(model)
    pairs = [(row.text, row.text_pair) for row in prepared.splits["train"]]
    tokens = AutoTokenizer.from_pretrained(base)(pairs, padding=True, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        logits = model(**tokens).logits
    labels = np.array(prepared.table("train").column("label").to_pylist())
    metrics = _evaluate(task, logits.numpy(), labels)
    student = _serving(model, base, folder / "serving")
    found = student.predict(pairs)
    np.testing.assert_allclose([answer.logits for answer in found], logits, atol=1e-4)
    result = {
        "prepared": str(prepared.table("train").schema.field("label").type),
        "task": task,
        "terms": sorted(_learn(task, tokens["input_ids"].numpy(), logits, labels)),
        "blend": Blend(2.0, 0.5, task).describe(),
        "columns": [title.replace("\n", " ").split(" (")[0] for title in headers(metrics)][:3],
        "served": sorted({str(answer.label) for answer in found} | {*map(str, student.card.labels)}),
        "response": ANSWERING[student.card.form].response.__name__,
    }
    assert len(rows(metrics)) == 2
    print(json.dumps(result))


def _prepare(raw: Path) -> Prepared:
    label = {"kind": "column", "column": "y"}
    section = {"task": TASK, "tables": [{"source": "s"}], "text": ["a", "b"], "label": label}
    return prepare(raw, Prepare.model_validate(section))


def _learn(task: Any, ids: Any, logits: torch.Tensor, labels: Any) -> dict[str, torch.Tensor]:
    batch = Batch(np.arange(len(ids)), ids, np.ones_like(ids), None, labels)
    terms = Supervised(task)(Outputs(logits), batch, OptimizerStep.of([batch]))
    assert all(term.isfinite() for term in terms.values())
    return terms


def _evaluate(task: Any, logits: Any, labels: Any) -> dict[str, Any]:
    temperature = KINDS[task].temperature(logits, labels)
    assert temperature is not None
    answers = {name: Answers(logits, temperature, 100, 1000, task) for name in ("teacher", "control", "student")}
    settings = Evaluate()
    found = compare(labels, answers, "student", settings, seed=0)
    assert found["agreement"] == 1
    assert found["control"]["outcome"] == "NO DIFFERENCE"
    models = {name: score(labels, answers[name], settings) for name in ("teacher", "student")}
    return {"task": task, "models": models, "shipped": "fp32"}


def _serving(model: Any, base: Path, folder: Path) -> Student:
    folder.mkdir()
    export_onnx(model, folder / "model.onnx", pair=True)
    write_served_tokenizer(base, 64, folder / "tokenizer.json")
    card = {
        "format": 1, "task": TASK, "variant": "fp32", "labels": ["0", "1"], "pair": True, "max_length": 64,
        "pad_token_id": 0, "temperature": 1.0, "inputs": ["input_ids", "attention_mask", "token_type_ids"],
    }  # fmt: skip
    write_json(folder / "model.json", card)
    write_manifest(folder)
    return Student(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
