"""Section `validate`: what the prepared data must meet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import LABELLED, Interval, Share, Strict, check_interval
from potstill.paths import ACCEPTED_PROFILE


class Validate(Strict):
    """Limits of the Great Expectations suites."""

    # A minimum is mandatory, because an empty frame passes all other checks.
    min_rows: dict[Literal["train", "dev", "test", "transfer"], NonNegativeInt] = Field(
        description="Fewest rows by split. train, dev and test need at least 1."
    )
    min_per_class: PositiveInt | None = Field(
        20,
        description="Fewest rows of each class in a split; with several labels, rows that have the label. null: any.",
    )
    max_class_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.95, description="Highest share of a split's rows that one class or label may have. null: any."
    )
    target: Interval | None = Field(
        None, description="Bounds of a regression's numbers, [lowest, highest]. null: any finite number."
    )
    characters: list[PositiveInt] = Field(
        [1, 20_000],
        min_length=2,
        max_length=2,
        description="Bounds of a text's length in characters, [lowest, highest].",
    )
    max_damaged_share: Share = Field(
        0.001, description="Highest share of rows with damaged characters: U+FFFD, or marks of a wrong encoding."
    )
    max_psi: PositiveFloat = Field(
        0.25,
        description="Highest population stability index against the profile accepted last "
        f"({ACCEPTED_PROFILE}). Values "
        "above 0.25 are commonly called a shift.",
    )

    @model_validator(mode="after")
    def _name_every_labelled_split(self) -> Self:
        named = {split for split, rows in self.min_rows.items() if rows > 0}
        missing = [split for split in LABELLED if split not in named]
        if missing:
            raise ValueError(f"min_rows needs at least 1 for {', '.join(missing)}")
        check_interval([*self.characters], "characters")
        if self.target is not None:
            check_interval(self.target, "target")
        return self
