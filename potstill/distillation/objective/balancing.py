"""How much each term of the loss weighs, step by step: values and pure functions, no state."""

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
        kind: `constant`; `decay`, linear from the full weight at step 0 to 0 after the fraction; or `warmup`, linear
            to the full weight, which the fraction's last step has.
        fraction: of the run's steps, in (0, 1]; `constant` ignores it.

    Raises:
        ParamsError: a value is not one of these.
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
        """The weight at a step, counted from 0, of a run of `total` optimizer steps."""
        if self.kind == "constant":
            return self.weight
        part = self.fraction * total
        if self.kind == "decay":
            return self.weight * max(1 - step / part, 0.0)
        return self.weight * min((step + 1) / part, 1.0)

    @property
    def lasts(self) -> bool:
        """Whether the weight is above 0 at every step of a run."""
        return self.weight > 0 and (self.kind != "decay" or self.fraction == 1)


@dataclass(frozen=True)
class Balancer:
    """The weights of named terms, each with a schedule of its own.

    Attributes:
        schedules: term name -> schedule.

    Raises:
        ParamsError: no term keeps a weight to the end, so some steps would train nothing.
    """

    schedules: Mapping[str, Schedule]

    def __post_init__(self) -> None:
        if not any(schedule.lasts for schedule in self.schedules.values()):
            raise ParamsError(
                f"none of the loss terms ({', '.join(self.schedules) or 'there are none'}) keeps a weight above 0 to "
                "the end of the run; give one a constant weight"
            )

    def weights(self, step: int, total: int) -> dict[str, float]:
        """The weight of each term at a step; what weighs 0 need not be computed."""
        return {name: schedule.at(step, total) for name, schedule in self.schedules.items()}

    def __call__(self, terms: Mapping[str, Tensor], step: int, total: int) -> dict[str, Tensor]:
        """Weigh the terms of a step; their sum is the loss.

        A term that weighs 0 is not touched: not even a NaN in it reaches the sum.

        Args:
            terms: term name -> scalar; those that weigh 0 may be left out.
            step: counted from 0, in optimizer steps.
            total: optimizer steps of the whole run, at least 1.

        Returns:
            Each given term times its weight, in fp32.

        Raises:
            ParamsError: a term has no schedule, or a schedule with a weight has no term (a name was misspelt), or a
                term is not a scalar.
        """
        unknown = sorted(terms.keys() - self.schedules.keys())
        if unknown:
            raise ParamsError(
                f"the loss term {unknown[0]} has no weight; give it one beside {', '.join(self.schedules)}"
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
