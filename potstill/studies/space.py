"""What a study chooses from, and what a choice is in params.yaml."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from potstill.artifacts import sha256_value
from potstill.config.distill_params import Distill
from potstill.config.params import Params
from potstill.config.params_file import parse_distill
from potstill.config.search_params import Search
from potstill.models.students.layer_choice import default_layers

if TYPE_CHECKING:
    from optuna import Trial

# Of the teacher's layers, where params name none.
SHARES = (2, 3, 6)


@dataclass(frozen=True)
class Choice:
    """One point of the space, as JSON-able values.

    Attributes:
        layers: teacher layers the student starts from.
        temperature: of the loss on logits.
        alpha: weight of the teacher in it.
        learning_rate: peak of the schedule.
        losses: name of a set of further losses in `search.losses`.
    """

    layers: tuple[int, ...]
    temperature: float
    alpha: float
    learning_rate: float
    losses: str

    @property
    def key(self) -> str:
        """A name for files."""
        values = [list(self.layers), self.temperature, self.alpha, self.learning_rate, self.losses]
        return f"{len(self.layers)}-layers-{sha256_value(values)[:12]}"


def candidate_layers(search: Search, available: int) -> list[list[int]]:
    """The lists of layers to try, for a teacher with so many."""
    if search.layers is not None:
        return search.layers
    sizes = sorted({max(available // share, 1) for share in SHARES}, reverse=True)
    return [default_layers(available, size) for size in sizes]


def grid(search: Search, layers: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """All values of each part, as Optuna's GridSampler takes them."""
    return {
        "layers": [_written(one) for one in layers],
        "temperature": list(search.temperature),
        "alpha": list(search.alpha),
        "learning_rate": list(search.learning_rate),
        "losses": list(search.losses),
    }


def combinations(search: Search, layers: Sequence[Sequence[int]]) -> int:
    """How many points a grid has."""
    return math.prod(len(values) for values in grid(search, layers).values())


def suggest(trial: Trial, search: Search, layers: Sequence[Sequence[int]]) -> Choice:
    """A choice of the study's sampler."""
    return choice_of(
        {
            "layers": trial.suggest_categorical("layers", [_written(one) for one in layers]),
            "temperature": _number(trial, "temperature", search.temperature, search, log=True),
            "alpha": _number(trial, "alpha", search.alpha, search, log=False),
            "learning_rate": _number(trial, "learning_rate", search.learning_rate, search, log=True),
            "losses": trial.suggest_categorical("losses", list(search.losses)),
        }
    )


def choice_of(params: Mapping[str, Any]) -> Choice:
    """The choice that a trial's params are, its numbers as short as a person would write them."""
    numbers = {name: float(f"{params[name]:.6g}") for name in ("temperature", "alpha", "learning_rate")}
    return Choice(layers=tuple(json.loads(params["layers"])), losses=params["losses"], **numbers)


def distill_section(distill: Distill, search: Search, choice: Choice) -> Distill:
    """The `distill` section that makes this choice's student."""
    return parse_distill(distill.model_dump() | changes(search, choice))


def changes(search: Search, choice: Choice) -> dict[str, Any]:
    """Keys of `distill` that a choice sets, as plain values."""
    return {
        "layers": list(choice.layers),
        "temperature": choice.temperature,
        "alpha": choice.alpha,
        "learning_rate": choice.learning_rate,
        "terms": [term.model_dump() for term in search.losses[choice.losses]],
        "evaluations_per_epoch": search.evaluations_per_epoch,
    }


def settings(search: Search, choice: Choice) -> list[str]:
    """`potstill run --set` arguments that make this choice's student again, each ready for a shell."""
    return written({"distill": changes(search, choice)})


def static_changes(params: Params, width: int) -> dict[str, dict[str, Any]]:
    """Section -> keys that are to change for a static student of that width, as plain values.

    Its controls are trained as it is: what is right for layers would teach a table of vectors nothing.
    """
    plan = params.search.static.model_dump(exclude={"dimensions"})
    without: dict[str, Any] = {"terms": [], "prune": None, "lora": None, "assistants": [], "mutual": None}
    without |= {"packing": "auto"} if params.distill.packing is True else {}
    wanted: dict[str, dict[str, Any]] = {
        "general": {"layers": None},
        "distill": {"student": {"kind": "static", "dimensions": width}} | without | plan,
        "control": plan,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, values in wanted.items():
        now = params.section(name).model_dump(mode="json")
        found[name] = {key: value for key, value in values.items() if now[key] != value}
    return found


def written(changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`potstill run --set` arguments that make these changes, each ready for a shell."""
    return [
        f"--set '{section}.{key}={json.dumps(value)}'"
        for section, values in changes.items()
        for key, value in values.items()
    ]


def _number(trial: Trial, name: str, values: Sequence[float], search: Search, *, log: bool) -> float:
    low, high = min(values), max(values)
    if search.sampler == "grid" or low == high:
        return float(trial.suggest_categorical(name, list(values)))
    return float(trial.suggest_float(name, low, high, log=log))


def _written(layers: Sequence[int]) -> str:
    return json.dumps(list(layers))
