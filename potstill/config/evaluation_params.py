"""Sections `export` and `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Share, Strict, TaskKind


class Export(Strict):
    """How far ONNX and INT8 may differ from the student, measured on dev; INT8 beyond its limits is not shipped."""

    max_parity_difference: PositiveFloat = Field(
        1e-3, description="Largest difference of a logit between the student and its fp32 ONNX file."
    )
    int8_max_accuracy_drop: Share = Field(
        0.005,
        description="How far the score of INT8 may be below the student's: accuracy, micro F1 of several labels, R² of "
        "numbers. Else fp32 is shipped.",
    )
    int8_min_agreement: Share = Field(
        0.98,
        description="Share of rows on which INT8 and the student have to give the same label; for numbers, their "
        "correlation. Else fp32 is shipped.",
    )
    int8_fp32_products: NonNegativeInt = Field(
        1,
        description="Matrix products to compute in fp32: the outputs of those feed-forward layers that lose most in "
        "INT8. Their weights are stored in 8 bits like the others.",
    )
    embedding_bits: Literal[4, 8] = Field(
        8, description="Bits of a number in the table of token embeddings of the INT8 file. 4 halves the table."
    )


Language = Literal["en", "zh"]
# Perturbations of test texts, in the order of every table. `evaluation.behaviour.catalogue` has a function for each.
TestName = Literal[
    "typo_swap",
    "typo_key",
    "typo_drop",
    "typo_double",
    "case_lower",
    "case_upper",
    "case_title",
    "punctuation_dropped",
    "punctuation_end",
    "punctuation_doubled",
    "space_doubled",
    "space_around",
    "space_stripped",
    "negation",
    "names",
    "numbers",
    "neutral_url",
    "neutral_before",
    "neutral_after",
    "width_full",
    "width_half",
    "script",
    "character_doubled",
]
TEST_NAMES: tuple[TestName, ...] = get_args(TestName)
_ONLY_CHINESE: tuple[TestName, ...] = ("width_full", "width_half", "script", "character_doubled")
_ONLY_ENGLISH = tuple(
    name for name in TEST_NAMES if name.startswith(("typo_", "case_")) or name in ("space_doubled", "negation", "names")
)
TESTS_OF_LANGUAGE: dict[Language, tuple[TestName, ...]] = {
    "en": tuple(name for name in TEST_NAMES if name not in _ONLY_CHINESE),
    "zh": tuple(name for name in TEST_NAMES if name not in _ONLY_ENGLISH),
}
_UNDIRECTED = tuple(name for name in TEST_NAMES if name != "negation")
# Tests that a task can have. An entity is compared by its characters, so they must not move; the names and numbers of
# a question decide its answer; a negated sentence has another probability of its class.
TESTS_OF_TASK: dict[TaskKind, tuple[TestName, ...]] = {
    "single_label": TEST_NAMES,
    "multi_label": _UNDIRECTED,
    "regression": _UNDIRECTED,
    "token_classification": (
        "typo_swap",
        "typo_key",
        "case_lower",
        "case_upper",
        "case_title",
        "punctuation_end",
        "numbers",
        "neutral_after",
        "width_full",
        "width_half",
        "script",
    ),
    "question_answering": tuple(name for name in _UNDIRECTED if name not in ("names", "numbers")),
}


class Behaviour(Strict):
    """Behavioural tests: which changes of a text the answer has to survive, and which have to move it."""

    language: Literal["auto", "en", "zh"] = Field(
        "auto",
        description="Language of the texts, which decides the tests. auto: zh if at least 30% of the characters of the "
        "test texts are Chinese, else en.",
    )
    tests: list[TestName] | None = Field(
        None,
        description="Perturbations of test texts to try. Of a pair, the first text is changed. null: all that the "
        "language and the task have. []: none.",
    )
    rows: PositiveInt = Field(
        200,
        description="Test rows that are drawn for each test among those that it applies to; most cases of a template.",
    )
    negated_labels: list[str | int] = Field(
        [],
        description="Labels that the negation of a sentence makes less probable, such as those of opinions: the test "
        "`negation` takes rows with these gold labels. []: the test is left out.",
    )
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1,
        description="Change of a probability that a directional test asks for. For numbers, in standard deviations of "
        "the test split: the change that it asks for, and the largest that an invariance test allows.",
    )
    templates: str | None = Field(None, description="YAML file with tests of your own. null: none.")
    examples: NonNegativeInt = Field(5, description="Failures of each test and model that are kept as examples.")

    @model_validator(mode="after")
    def _tests_fit_the_language(self) -> Self:
        for name in self.tests or ():
            if self.language != "auto" and name not in TESTS_OF_LANGUAGE[self.language]:
                raise ValueError(
                    f"tests names {name}, which is not for language {self.language}; choose from "
                    f"{', '.join(TESTS_OF_LANGUAGE[self.language])}"
                )
        if "negation" in (self.tests or ()) and not self.negated_labels:
            raise ValueError("tests names negation, but negated_labels is empty; name the labels there")
        return self


class Evaluate(Strict):
    """Statistics and timing on the frozen test split."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the confidence intervals.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the bootstrap.")
    calibration_bins: int = Field(15, ge=2, le=100, description="Bins of the calibration error and its diagram.")
    latency_texts: int = Field(200, ge=10, description="Texts that each model answers one by one, to measure latency.")
    throughput_texts: int = Field(1000, ge=10, description="Texts that each model answers in batches, for throughput.")
    rounds: PositiveInt = Field(
        5, description="Rounds in which the models take turns while they are timed, each with its share of these texts."
    )
    behaviour: Behaviour = Field(Behaviour(), description="Behavioural tests on perturbed test texts and templates.")
