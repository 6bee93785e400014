"""Tiny students as `potstill predict` chooses them, and files for them to answer."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, sha256_file
from potstill.config.alerts_params import Alerts
from potstill.inference.profile import build_profile, observe
from potstill.inference.runtime import Student, Text
from potstill.prediction.alerting import Alerting, FileCounts
from potstill.prediction.file_prediction import ChosenModel
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_serving

TEXTS = [text for text, _ in generate_rows(120)]


def tiny_model(base: Path, folder: Path, *, abstain_below: float | None = None, **serving: Any) -> ChosenModel:
    """A random classifier of single texts, or of pairs."""
    texts: list[Text] = [*TEXTS] if not serving.get("pair") else list(itertools.pairwise(TEXTS))
    return model_of(write_serving(base, folder, **serving), texts, abstain_below)


def model_of(serving: Path, texts: Sequence[Text], abstain_below: float | None = None) -> ChosenModel:
    """The model of a serving folder, with the profile of some texts."""
    candidate = sha256_file(serving / MANIFEST)
    student = Student(serving, 1)
    profile = build_profile(observe(student, texts), student.card, student.tokenizer, candidate, None)
    return ChosenModel(serving, student.card, profile, candidate, "3", candidate[:12], abstain_below, 31)


def silent(model: ChosenModel) -> Alerting:
    """Alerts of a model that has no rules."""
    return Alerting(Alerts(), model.card, model.profile, FileCounts(Path("unused.json")), print)


def csv_bytes(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def jsonl_bytes(rows: Sequence[object]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def parquet_bytes(**columns: Any) -> bytes:
    return parquet_file(pa.table(columns))


def parquet_file(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return bytes(buffer.getvalue())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
