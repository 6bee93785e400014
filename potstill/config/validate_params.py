"""Section `validate`: what the prepared data must meet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import LABELLED, Interval, Positive, Share, Strict, check_interval


class Validate(Strict):
    """Limits of the Great Expectations suites. A split's row minimum is mandatory: an empty frame passes the rest."""

    min_rows: dict[Literal["train", "dev", "test", "transfer"], Annotated[int, Field(ge=0)]]
    # Of several labels: rows that a label holds for, and their share. null: not asked.
    min_per_class: Positive | None = 20
    max_class_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    # Bounds of a regression's numbers; null: any finite number.
    target: Interval | None = None
    characters: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [1, 20_000]
    # Share of rows with U+FFFD or mojibake marks.
    max_damaged_share: Share = 0.001
    # Population stability index against the last accepted profile (data/accepted.json); PSI > 0.25 is a shift.
    max_psi: Annotated[float, Field(gt=0)] = 0.25

    @model_validator(mode="after")
    def _name_every_labelled_split(self) -> Self:
        named = {split for split, rows in self.min_rows.items() if rows > 0}
        missing = [split for split in LABELLED if split not in named]
        if missing:
            raise ValueError(f"min_rows needs at least 1 for {', '.join(missing)}")
        if self.characters[0] > self.characters[1]:
            raise ValueError(f"characters {self.characters}: the lower bound is above the upper")
        if self.target is not None:
            check_interval(self.target, "target")
        return self
