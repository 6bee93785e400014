"""Sections `export`, `quantize` and `evaluate`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Share, Strict, Switch
from potstill.config.behaviour_params import Behaviour
from potstill.config.expressions import expression_names

# Above 0 and below 1.
Level = Annotated[float, Field(gt=0, lt=1)]


class Export(Strict):
    """How far ONNX and INT8 may differ from the student, measured on dev. INT8 ships unless it breaks a limit beyond
    noise."""

    max_parity_difference: PositiveFloat = 1e-3
    """Largest difference of a logit between the student and its fp32 ONNX file."""
    int8_max_accuracy_drop: Share = 0.005
    """How far the score of INT8 may be below the student's: accuracy, micro F1 of several labels, R² of numbers. fp32
    ships where the lower end of the loss's paired interval is above this."""
    int8_min_agreement: Share = 0.98
    """Share of rows on which INT8 and the student have to give the same label; for numbers, their correlation. fp32
    ships where the upper end of its interval is below this."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of both intervals."""
    bootstrap: int = Field(10000, ge=100)
    """Resamples of the rows of dev for them."""
    int8_fp32_products: NonNegativeInt = 0
    """Matrix products to compute in fp32: the outputs of those feed-forward layers that lose most in INT8. Their
    weights are stored in 8 bits like the others. Each takes as long as several in INT8."""
    embedding_bits: Literal[4, 8] = 8
    """Bits of a number in the table of token embeddings of the INT8 file. 4 halves the table."""


class Quantize(Strict):
    """The teacher in ONNX INT8, which users could serve without a student. The student is compared with it."""

    teacher: Switch = "auto"
    """Whether it is made. auto: unless it cannot be, because it is too large or of a kind that the exporter lacks, or
    because none of several teachers answers every label."""


class Slices(Strict):
    """Parts of the test split on which the candidate is compared with its rivals."""

    length_bands: Annotated[int, Field(ge=2, le=20)] | None = 4
    """Bands of about equal size by length in characters, of both texts of a pair together. null: none."""
    length_limits: Annotated[list[PositiveInt], Field(max_length=20)] = []
    """Lengths at which a new band begins, in place of length_bands: `[100, 500]` gives three bands."""
    label: Switch = "auto"
    """Slices by gold label: the class, each label that a row has, each type of entity in it, or whether there is an
    answer. auto: in every task but regression."""
    columns: list[str] = []
    """Columns of which each value is a slice: those that prepare.keep_columns names."""
    max_values: PositiveInt = 20
    """Values that such a column may have with min_rows rows or more; divide others by expressions."""
    expressions: dict[str, str] = {}
    """Slices by name, each a condition on `length`, `label` (a class or a number), `text` and the columns that
    prepare.keep_columns names: `length < 40 and stars <= 2`. It knows and, or, not, in, comparisons and + - * / %."""
    min_rows: Annotated[int, Field(ge=2)] = 50
    """Rows below which a slice is named but not judged, because its interval would say nothing."""
    false_discovery_rate: Level = 0.05
    """Share of wrong ones to expect at most among the differences that are called BEATS or LOSES, over all slices and
    rivals together."""

    @model_validator(mode="after")
    def _check_slices(self) -> Self:
        if any(low >= high for low, high in pairwise(self.length_limits)):
            raise ValueError(f"length_limits is {self.length_limits}; name lengths in rising order")
        for name, expression in self.expressions.items():
            try:
                expression_names(expression)
            except ValueError as error:
                raise ValueError(f"expressions.{name}: {error}") from None
        return self


class Abstention(Strict):
    """A threshold of confidence below which the model should not answer, found on dev and checked on test."""

    right: Level = 0.95
    """Share of the answered texts that have to be right."""
    delta: Level = 0.05
    """Chance, over draws of the dev split, that the threshold misses this target."""


class Evaluate(Strict):
    """Statistics and timing on the frozen test split."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""
    bootstrap: int = Field(10000, ge=100)
    """Resamples of the bootstrap."""
    calibration_bins: int = Field(15, ge=2, le=100)
    """Bins of the calibration error and its diagram."""
    latency_texts: int = Field(200, ge=10)
    """Texts that each model answers one by one, to measure latency."""
    throughput_texts: int = Field(1000, ge=10)
    """Texts that each model answers in batches, for throughput."""
    rounds: PositiveInt = 5
    """Rounds in which the models take turns while they are timed, each with its share of these texts."""
    shift_rows: PositiveInt = 2000
    """Rows of the shift set that are drawn at most (`split: shift` of prepare.tables)."""
    slices: Slices = Slices()
    """Parts of the test split, each with a comparison of its own."""
    abstention: Abstention | None = None
    """Threshold for answers of which a given share is right. null: none."""
    behaviour: Behaviour = Behaviour()
    """Behavioural tests on changed test texts and templates."""
