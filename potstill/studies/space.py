"""The search space of a study, and the params of a choice in it."""

from __future__ import annotations

import json
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

# A student has 1/2, 1/3 or 1/6 of the teacher's layers, where params name none.
LAYER_DIVISORS = (2, 3, 6)


@dataclass(frozen=True)
class Choice:
    """One point of the space, as JSON-able values.

    Attributes:
        layers: teacher layers that the student starts from.
        temperature: temperature of the loss on logits.
        alpha: the teacher's weight in that loss.
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
        """A name for folders."""
        values = [list(self.layers), self.temperature, self.alpha, self.learning_rate, self.losses]
        return f"{len(self.layers)}-layers-{sha256_value(values)[:12]}"


def candidate_layers(search: Search, available: int) -> list[list[int]]:
    """Return the lists of layers to try, for a teacher with `available` layers."""
    if search.layers is not None:
        return search.layers
    sizes = sorted({max(available // divisor, 1) for divisor in LAYER_DIVISORS}, reverse=True)
    return [default_layers(available, size) for size in sizes]


def grid(search: Search, layers: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """Return all values of each parameter, as Optuna's GridSampler takes them."""
    return {
        "layers": [json.dumps(list(indices)) for indices in layers],
        "temperature": list(search.temperature),
        "alpha": list(search.alpha),
        "learning_rate": list(search.learning_rate),
        "losses": list(search.losses),
    }


def suggest(trial: Trial, search: Search, layers: Sequence[Sequence[int]]) -> Choice:
    """Draw a choice with the study's sampler."""
    return parse_choice(
        {
            "layers": trial.suggest_categorical("layers", grid(search, layers)["layers"]),
            "temperature": _number(trial, "temperature", search.temperature, search, log=True),
            "alpha": _number(trial, "alpha", search.alpha, search, log=False),
            "learning_rate": _number(trial, "learning_rate", search.learning_rate, search, log=True),
            "losses": trial.suggest_categorical("losses", list(search.losses)),
        }
    )


def parse_choice(params: Mapping[str, Any]) -> Choice:
    """Parse a trial's params, with numbers rounded to what a person would write."""
    numbers = {name: float(f"{params[name]:.6g}") for name in ("temperature", "alpha", "learning_rate")}
    return Choice(layers=tuple(json.loads(params["layers"])), losses=params["losses"], **numbers)


def distill_section(distill: Distill, search: Search, choice: Choice) -> Distill:
    """Return the `distill` section of a choice's student."""
    return parse_distill(distill.model_dump() | changes(search, choice))


def changes(search: Search, choice: Choice) -> dict[str, Any]:
    """Return the keys of `distill` that a choice sets, as plain values."""
    return {
        "layers": list(choice.layers),
        "temperature": choice.temperature,
        "alpha": choice.alpha,
        "learning_rate": choice.learning_rate,
        "terms": [term.model_dump() for term in search.losses[choice.losses]],
        "evaluations_per_epoch": search.evaluations_per_epoch,
    }


def settings(search: Search, choice: Choice) -> list[str]:
    """Return the `potstill run --set` arguments of a choice's student, each quoted for a shell."""
    return set_arguments({"distill": changes(search, choice)})


def static_changes(params: Params, width: int) -> dict[str, dict[str, Any]]:
    """Return section -> keys to change for a static student of that width, as plain values.

    The controls get the same training plan: one for layers would teach a table of vectors nothing.
    """
    plan = params.search.static.model_dump(exclude={"dimensions"})
    layerless: dict[str, Any] = {"lora": None, "freeze_layers": 0}
    switched_off: dict[str, Any] = {"terms": [], "prune": None, "assistants": [], "mutual": None} | layerless
    switched_off |= {"packing": "auto"} if params.distill.packing is True else {}
    targets: dict[str, dict[str, Any]] = {
        "general": {"layers": None},
        "distill": {"student": {"kind": "static", "dimensions": width}} | switched_off | plan,
        "finetune": layerless,
        "control": layerless | plan,
    }
    changed: dict[str, dict[str, Any]] = {}
    for name, values in targets.items():
        current = params.section(name).model_dump(mode="json")
        changed[name] = {key: value for key, value in values.items() if current[key] != value}
    return changed


def set_arguments(changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the `potstill run --set` arguments of these changes, each quoted for a shell."""
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
