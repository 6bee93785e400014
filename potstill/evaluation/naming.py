"""The models an evaluation compares, under the names that metrics.json, predictions.parquet and the report share."""

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
# The models of a proof (`proof.MODELS`): what ships, and the two controls by the names they have everywhere.
PROVEN = {"student": "Student", "pretrained": MODELS["control"], "initialised": MODELS["initialised"]}
# No encoder: what TF-IDF with a linear model makes of the same rows (`evaluation/baseline.py`).
BASELINE = "tfidf"
TITLES = {**MODELS, BASELINE: "TF-IDF"}
# `variant` of data/serving/model.json and `shipped` of metrics.json -> the model that was evaluated.
SHIPPED = {"int8": "int8", "fp32": "student"}


def candidate_of(metrics: Mapping[str, Any]) -> str | None:
    """Which of `MODELS` is the one that ships; None where metrics.json does not say."""
    shipped = metrics.get("shipped")
    return SHIPPED.get(shipped) if isinstance(shipped, str) else None
