"""Sections `export` and `evaluate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from potstill.config.base import Share, Strict


class Export(Strict):
    """How far ONNX and INT8 may differ from the student, measured on dev; INT8 beyond its limits is not shipped."""

    max_parity_difference: PositiveFloat = 1e-3
    """Largest difference of a logit between the student and its fp32 ONNX file."""
    int8_max_accuracy_drop: Share = 0.005
    """How far the score of INT8 may be below the student's: accuracy, micro F1 of several labels, R² of numbers. Else
    fp32 is shipped."""
    int8_min_agreement: Share = 0.98
    """Share of rows on which INT8 and the student have to give the same label; for numbers, their correlation. Else
    fp32 is shipped."""
    int8_fp32_products: NonNegativeInt = 1
    """Matrix products to compute in fp32: the outputs of those feed-forward layers that lose most in INT8. Their
    weights are stored in 8 bits like the others."""
    embedding_bits: Literal[4, 8] = 8
    """Bits of a number in the table of token embeddings of the INT8 file. 4 halves the table."""


class Evaluate(Strict):
    """Statistics and timing on the frozen test split."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the bootstrap."""
    calibration_bins: int = Field(15, ge=2, le=100)
    """Bins of the calibration error and its diagram."""
    latency_texts: int = Field(200, ge=10)
    """Texts that each model answers one by one, to measure latency."""
    throughput_texts: int = Field(1000, ge=10)
    """Texts that each model answers in batches, for throughput."""
    rounds: PositiveInt = 5
    """Rounds in which the models take turns while they are timed, each with its share of these texts."""
