"""Section `validate`: what the prepared data must meet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import LABELLED, CountInterval, Interval, Share, Strict


class Validate(Strict):
    """Limits of the Great Expectations suites."""

    # A minimum is mandatory, because an empty frame passes all other checks.
    min_rows: dict[Literal["train", "dev", "test", "transfer"], NonNegativeInt]
    """Fewest rows by split. train, dev and test need at least 1."""
    min_per_class: PositiveInt | None = 20
    """Fewest rows of each class in a split; with several labels, rows that have the label. null: any."""
    max_class_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """Highest share of a split's rows that one class or label may have. null: any."""
    target: Interval | None = None
    """Bounds of a regression's numbers, [lowest, highest]. null: any finite number."""
    characters: CountInterval = [1, 20_000]
    """Bounds of a text's length in characters, [lowest, highest]."""
    max_damaged_share: Share = 0.001
    """Highest share of rows with damaged characters: U+FFFD, or marks of a wrong encoding."""
    max_psi: PositiveFloat = 0.25
    """Highest population stability index against the profile accepted last (data/accepted.json). Values above 0.25 are
    commonly called a shift."""

    @model_validator(mode="after")
    def _name_every_labelled_split(self) -> Self:
        named = {split for split, rows in self.min_rows.items() if rows > 0}
        missing = [split for split in LABELLED if split not in named]
        if missing:
            raise ValueError(f"min_rows needs at least 1 for {', '.join(missing)}")
        return self
