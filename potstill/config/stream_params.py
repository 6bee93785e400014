"""Section `stream`: how `potstill predict --from` reads a stream and answers it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from potstill.config.base import MetricsAddress


class Stream(MetricsAddress):
    """How `potstill predict --from` reads a stream and answers it."""

    group: str = Field("potstill", min_length=1)
    """Name of the consumer group. Processes of one group share the records."""
    batch: PositiveInt = 256
    """Most records that are read, computed and answered together."""
    claim_seconds: float = Field(30.0, gt=0, le=86_400)
    """Seconds after which a record that was read and not answered is read again, for instance after a kill."""
    max_length: PositiveInt | None = None
    """Most entries of the stream of answers. null: any number."""
    when_full: Literal["wait", "trim"] = "wait"
    """What happens at max_length. wait: nothing is read until a reader has deleted answers. trim: the oldest answers
    are deleted."""
