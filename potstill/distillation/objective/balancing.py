"""The weight of each term of the loss at each step of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """The weight of a term over a run.

    Attributes:
        weight: the full weight, above 0.
        kind: `constant`; `decay`, which falls linearly from the full weight at step 0 to 0 at the end of the fraction;
            or `warmup`, which rises linearly to the full weight at the last step of the fraction.
        fraction: share of the run's steps that a decay or a warm-up takes, in (0, 1]; ignored by `constant`.
    """

    weight: float
    kind: Literal["constant", "decay", "warmup"] = "constant"
    fraction: float = 1.0

    def at(self, step: int, total: int) -> float:
        """Return the weight at a step, counted from 0, of a run of `total` optimizer steps."""
        if self.kind == "constant":
            return self.weight
        duration = self.fraction * total
        if self.kind == "decay":
            return self.weight * max(1 - step / duration, 0.0)
        return self.weight * min((step + 1) / duration, 1.0)

    @property
    def lasts_to_the_end(self) -> bool:
        """Whether the weight is above 0 at every step of a run."""
        return self.kind != "decay" or self.fraction == 1
