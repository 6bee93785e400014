"""Section `predict`: how `potstill predict` reads and answers files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from potstill.config.base import MetricsAddress, Share


class Predict(MetricsAddress):
    """How `potstill predict` reads and answers files."""

    prefix: str = Field("model_", pattern=r"^[A-Za-z0-9_]*$")
    """Start of the names of the columns that are added, so that a file may have a column `label`."""
    max_characters: PositiveInt = 20_000
    """Characters of a text, or of the two texts of a pair. A row with more is put aside."""
    max_rejected_share: Share = 0.01
    """Share of the rows that may be put aside. With more the command ends."""
    window_rows: PositiveInt = 2048
    """Rows that are sorted by length and computed together. Equal texts among them are computed once."""
    alarm: str | int | None = None
    """Label whose probability alarms: `--explain` also explains the answers that give it the highest one.
    null: none."""
    escape_formulas: bool = False
    """Whether a text of CSV that a spreadsheet takes for a formula gets an apostrophe before it. Numbers get none."""
    threads: NonNegativeInt = 0
    """Windows computed at the same time, each on one core. 0: one per core."""
    settle_seconds: float = Field(2.0, gt=0, le=86_400)
    """Seconds for which a file of a watched folder has to stay the same before it is answered."""
    watch_format: Literal["jsonl", "parquet", "csv"] = "jsonl"
    """Format of the answers to the files of a watched folder."""
