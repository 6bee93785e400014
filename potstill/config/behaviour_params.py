"""The section `evaluate.behaviour`."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from potstill.config.base import Strict

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


class Behaviour(Strict):
    """Behavioural tests: which changes of a text the answer has to survive, and which have to move it."""

    language: Literal["auto", "en", "zh"] = "auto"
    """Language of the texts, which decides the tests. auto: zh if at least 30% of the characters of the test texts are
    Chinese, else en."""
    tests: list[TestName] | None = None
    """Perturbations of test texts to try. Of a pair, the first text is changed. null: all that the language and the
    task have. []: none."""
    rows: PositiveInt = 100
    """Test rows that are drawn for each test among those that it applies to; most cases of a template."""
    negated_labels: list[str | int] = []
    """Labels that the negation of a sentence makes less probable, such as those of opinions: the test `negation` takes
    rows with these gold labels. []: the test is left out."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Change of a probability that a directional test asks for. For numbers, in standard deviations of the test split:
    the change that it asks for, and the largest that an invariance test allows."""
    templates: str | None = None
    """YAML file with tests of your own. null: none."""
    examples: NonNegativeInt = 5
    """Failures of each test and model that are kept as examples."""

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
