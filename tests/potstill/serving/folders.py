"""Serving folders of a tiny random student, and workspaces with them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from potstill.artifacts import MANIFEST, sha256_file, sha256_value, write_json, write_manifest
from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.inference.profile import answer_all
from potstill.inference.runtime import Student, Text
from potstill.kinds.definitions.task_kinds import CARD_NAMES, KINDS
from potstill.paths import TEST_PROFILE
from tests.conftest import generate_rows, write_once

REPOSITORY = Path(__file__).resolve().parents[3]
MAX_LENGTH = 48
TEMPERATURE = 1.5
LABELS = ["negative", "positive"]
TAGS = ["O", "B-LOC", "I-LOC"]
SPAN_LABELS = {"token_classification": TAGS, "question_answering": ["start", "end"]}


def classifier(base: Path) -> Any:
    """Build a deterministic torch classifier on the tiny encoder that predicts both labels."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification, set_seed

    set_seed(11)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=len(LABELS)).eval()
    texts = [text for text, _ in generate_rows(50)]
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    with torch.no_grad():
        model.classifier.weight.normal_(0, 20.0)
        model.classifier.bias -= model(**encoded).logits.mean(dim=0)
    return model


def write_serving(base: Path, folder: Path, *, variant: str = "int8", pair: bool = False) -> Path:
    """Write a serving folder as the export stage does; the ONNX files are created once a session."""
    name = f"{base.name}-onnx-{'pair' if pair else 'single'}"
    exported = write_once(base.with_name(name), partial(_export_classifier, base, pair))
    folder.mkdir(parents=True)
    shutil.copyfile(exported / f"{variant}.onnx", folder / "model.onnx")
    write_served_tokenizer(base, MAX_LENGTH, folder / "tokenizer.json")
    write_json(folder / "model.json", card(variant=variant, pair=pair))
    write_manifest(folder)
    return folder


def _export_classifier(base: Path, pair: bool, folder: Path) -> None:
    from potstill.onnx_export.eight_bits import quantize_int8
    from potstill.onnx_export.onnx_model import export_onnx

    export_onnx(classifier(base), folder / "fp32.onnx", pair=pair)
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx")


def write_span_model(base: Path, folder: Path, task: str, variant: str = "fp32") -> Path:
    """Write a serving folder of a random model whose answers are spans, and the torch model to `../torch`.

    The model is exported once a session.
    """
    exported = write_once(base.with_name(f"{base.name}-{task}"), partial(_export_span_model, base, task))
    folder.mkdir(parents=True)
    shutil.copyfile(exported / "model.onnx", folder / "model.onnx")
    write_served_tokenizer(base, 16, folder / "tokenizer.json")
    labels = SPAN_LABELS[task]
    pair = task == "question_answering"
    model_card = card(task=task, variant=variant, labels=labels, pair=pair, max_length=16, temperature=1.0, stride=4)
    write_json(folder / "model.json", model_card)
    write_manifest(folder)
    shutil.copytree(exported / "torch", folder.parent / "torch", dirs_exist_ok=True)
    return folder


def _export_span_model(base: Path, task: str, folder: Path) -> None:
    import torch

    from potstill.models.loading import load_classifier
    from potstill.onnx_export.onnx_model import export_onnx

    torch.manual_seed(4)
    model = load_classifier(base, SPAN_LABELS[task], task)  # type: ignore[arg-type]
    output = model.classifier if task == "token_classification" else model.qa_outputs
    with torch.no_grad():  # far enough apart that answers differ
        output.weight.normal_(0, 1.0)
    export_onnx(model, folder / "model.onnx", pair=task == "question_answering")
    model.save_pretrained(folder / "torch")


def card(**changes: Any) -> dict[str, Any]:
    """Build the content of a `model.json`."""
    pair = changes.get("pair", False)
    return {
        "format": 1,
        "task": "classification",
        "variant": "int8",
        "labels": LABELS,
        "pair": pair,
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
        "temperature": TEMPERATURE,
        "inputs": ["input_ids", "attention_mask", *(["token_type_ids"] if pair else [])],
        "embedding": not KINDS[CARD_NAMES[changes.get("task", "classification")]].marks_spans,
        **changes,
    }


def write_workspace(base: Path, workspace: Path, texts: list[str], **serving: Any) -> Path:
    """Write a workspace after the evaluate stage: serving folder, test split and predictions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_serving(base, workspace / "data/serving", **serving)
    for name in ("params.yaml", "bentofile.yaml"):
        shutil.copyfile(REPOSITORY / name, workspace / name)
    ids = [sha256_value(text)[:16] for text in texts]
    labels = [0] * len(texts)
    inputs: list[Text] = list(texts)
    logits = Student(folder).logits(inputs).tolist()
    column = "int8" if serving.get("variant", "int8") == "int8" else "student"
    write_profile(folder, inputs, workspace / TEST_PROFILE)
    for path, table in (
        ("data/prepared/test.parquet", {"id": ids, "text": texts, "label": labels}),
        ("data/evaluation/predictions.parquet", {"id": ids, "label": labels, column: logits}),
    ):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), workspace / path)
    return workspace


def write_profile(serving: Path, texts: list[Text], path: Path, gold_labels: list[int] | None = None) -> Path:
    """Write the profile of texts for a serving folder; without gold labels all have the first label."""
    import numpy as np

    from potstill.evaluation.reference import reference_profile

    student = Student(serving)
    gold = np.array([0] * len(texts) if gold_labels is None else gold_labels, dtype=np.int64)
    profile = reference_profile(student, texts, answer_all(student, texts), gold, sha256_file(serving / MANIFEST))
    write_json(path, profile.model_dump(mode="json"))
    return path


def flip_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def processes_with(word: str) -> list[int]:
    """List the running processes whose command contains `word`."""
    pids = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(word in part for part in command):
            pids.append(process.info["pid"])
    return pids
