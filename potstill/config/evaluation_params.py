"""Sections `export` and `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.config.base import Positive, Share, Strict


class Export(Strict):
    """ONNX and INT8. INT8 ships only within these tolerances, measured on dev; else fp32 ships."""

    max_parity_difference: Annotated[float, Field(gt=0)] = 1e-3
    # Of several labels: of micro F1; of numbers: of R².
    int8_max_accuracy_drop: Share = 0.005
    # Share of equal labels with the student; of numbers: the correlation.
    int8_min_agreement: Share = 0.98
    # Of the feed-forward layers' output products, those that cost most in INT8 and so are computed in fp32; their
    # weights are stored in 8 bits like the others.
    int8_fp32_products: Annotated[int, Field(ge=0)] = 1
    # Of the token embeddings in the INT8 file.
    embedding_bits: Literal[4, 8] = 8


class Evaluate(Strict):
    """Statistics and timing on the frozen test split."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 15
    latency_texts: Annotated[int, Field(ge=10)] = 200
    throughput_texts: Annotated[int, Field(ge=10)] = 1000
    # Turns the models take while they are timed, each with its share of those texts.
    rounds: Positive = 5
