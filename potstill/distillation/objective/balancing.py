"""The weight of each term of the loss at each step of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from potstill.errors import ParamsError

Kind = Literal["constant", "decay", "warmup"]
KINDS = ("constant", "decay", "warmup")


@dataclass(frozen=True)
class Schedule:
    """The weight of a term over a run.

    Attributes:
        weight: the full weight, >= 0.
        kind: `constant`; `decay`, which falls linearly from the full weight at step 0 to 0 at the end of the fraction;
            or `warmup`, which rises linearly to the full weight at the last step of the fraction.
        fraction: share of the run's steps that a decay or a warm-up takes, in (0, 1]; ignored by `constant`.

    Raises:
        ParamsError: a value is not allowed.
    """

    weight: float
    kind: Kind = "constant"
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ParamsError(f"the weight of a loss term is {self.weight}; set a finite number of 0 or more")
        if self.kind not in KINDS:
            raise ParamsError(f"the schedule of a loss term is {self.kind!r}; set one of {', '.join(KINDS)}")
        if not 0 < self.fraction <= 1:
            raise ParamsError(f"the fraction of a loss term's schedule is {self.fraction}; set it above 0, up to 1")

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
        return self.weight > 0 and (self.kind != "decay" or self.fraction == 1)


@dataclass(frozen=True)
class Balancer:
    """Weighs named terms by their schedules.

    Attributes:
        schedules: term name -> schedule.

    Raises:
        ParamsError: no term has a weight above 0 at every step, so some steps would train nothing.
    """

    schedules: Mapping[str, Schedule]

    def __post_init__(self) -> None:
        if not any(schedule.lasts_to_the_end for schedule in self.schedules.values()):
            raise ParamsError(
                f"none of the loss terms ({', '.join(self.schedules) or 'there are none'}) keeps a weight above 0 to "
                "the end of the run; give one a constant weight"
            )

    def weights(self, step: int, total: int) -> dict[str, float]:
        """Return the weight of each term at a step; a term of weight 0 need not be computed."""
        return {name: schedule.at(step, total) for name, schedule in self.schedules.items()}

    def __call__(self, terms: Mapping[str, Tensor], step: int, total: int) -> dict[str, Tensor]:
        """Weigh the terms of a step; their sum is the loss.

        A term of weight 0 becomes 0 even if it is NaN.

        Args:
            terms: term name -> scalar; terms of weight 0 may be missing.
            step: optimizer step, counted from 0.
            total: optimizer steps of the whole run, at least 1.

        Returns:
            Each given term times its weight, in fp32.

        Raises:
            ParamsError: a term has no schedule, a schedule with a weight has no term, or a term is not a scalar.
        """
        unknown = sorted(terms.keys() - self.schedules.keys())
        if unknown:
            raise ParamsError(
                f"the loss term {unknown[0]} has no weight; give it one, as {', '.join(self.schedules)} have"
            )
        weights = self.weights(step, total)
        missing = sorted(name for name, weight in weights.items() if weight > 0 and name not in terms)
        if missing:
            raise ParamsError(
                f"the loss term {missing[0]} has a weight, but this objective gives only {', '.join(terms)}; "
                "correct its name or remove it"
            )
        weighted: dict[str, Tensor] = {}
        for name, term in terms.items():
            if term.dim():
                raise ParamsError(f"the loss term {name} is {list(term.shape)}, not a scalar; take its mean first")
            weighted[name] = term.float() * weights[name] if weights[name] > 0 else torch.zeros((), device=term.device)
        return weighted
