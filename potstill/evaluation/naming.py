"""Names of the models that an evaluation compares, as metrics.json, predictions.parquet and the report share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# In the order of every table and figure.
MODELS = {
    "teacher": "Teacher",
    "student": "Student fp32",
    "int8": "Student INT8",
    "control": "Pretrained",
    "initialised": "Initialised",
}
# The models of a proof (`teacher_gain.MODELS`): what ships, and the two controls.
PROVEN = {"student": "Student", "pretrained": MODELS["control"], "initialised": MODELS["initialised"]}
# TF-IDF with a linear model on the same rows, without an encoder (`evaluation/baseline.py`).
BASELINE = "tfidf"
# The teacher in ONNX INT8, where it can be made (`tasks/quantize.py`).
QUANTIZED = "teacher_int8"
TITLES = {"teacher": MODELS["teacher"], QUANTIZED: "Teacher INT8", **MODELS, BASELINE: "TF-IDF"}
# `variant` of data/serving/model.json and `shipped` of metrics.json -> the model that was evaluated.
SHIPPED = {"int8": "int8", "fp32": "student"}


def candidate_of(metrics: Mapping[str, Any]) -> str | None:
    """Return which of `MODELS` ships; None where metrics.json does not say."""
    shipped = metrics.get("shipped")
    return SHIPPED.get(shipped) if isinstance(shipped, str) else None
