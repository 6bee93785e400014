"""`torch.compile` on a GPU, where a measurement says that it saves time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill.compute.distributed import current_world
from potstill.compute.precision import measured_once, synchronize
from potstill.config.base import Switch
from potstill.errors import ModelError, ToolError

# Compiling takes about a minute, which a run of fewer steps does not win back.
MIN_STEPS = 1000
_ROUNDS = 5


def choose_compiled(
    setting: Switch,
    model: nn.Module,
    device: torch.device,
    *,
    obstacle: str | None,
    steps: int,
    trial_step: Callable[[nn.Module], None],
    measurements: Path | None,
) -> nn.Module:
    """Return the model, or a compiled form of it with the same weights.

    `auto` compiles on a GPU if the run is long enough and the measurement says that compiling shortens it.

    Args:
        setting: `compile` of params.
        model: the model; it is not changed.
        device: device of the run.
        obstacle: why the model of this run cannot be compiled; None if it can.
        steps: number of steps of the run.
        trial_step: a forward and a backward pass that change nothing.
        measurements: JSON file of earlier measurements, created or extended by this one; None measures each time.

    Raises:
        ModelError: `compile` is true, but the model cannot be compiled.
        ToolError: `compile` is true, but this machine has no compiler.
    """
    if setting is False or (setting == "auto" and (device.type != "cuda" or obstacle or steps < MIN_STEPS)):
        return model
    if setting is True and obstacle is not None:
        raise ModelError(f"compile is true, but {obstacle}; set compile to auto or false")
    # All processes of a run have to decide alike: each waits for the collective calls of the others.
    missing = next(filter(None, current_world().gather(_missing_tool(device))), None)
    if missing is not None:
        if setting is True:
            raise ToolError(f"compile is true, but this machine has no {missing}; install one, or set compile to auto")
        return model
    compiled: nn.Module = torch.compile(model, dynamic=True)  # type: ignore[assignment]
    if setting is True:
        return compiled
    sizes = {name: getattr(model.config, name, None) for name in ("model_type", "hidden_size", "num_hidden_layers")}
    is_faster = current_world().run_on_first(
        lambda: compiling_pays(model, compiled, device, steps, trial_step, measurements, str(sizes))
    )
    return compiled if is_faster else model


def _missing_tool(device: torch.device) -> str | None:
    """Name the tool that torch's compiler needs for a device and this machine lacks, or None."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    names = [os.environ[name] for name in ("CXX", "CC") if name in os.environ] or ["g++", "clang++", "gcc", "clang"]
    return None if any(shutil.which(name) for name in names) else "C++ compiler"


def compiling_pays(
    plain: Any,
    compiled: Any,
    device: torch.device,
    steps: int,
    trial_step: Callable[[Any], None],
    measurements: Path | None,
    model_key: str,
) -> bool:
    """Whether a run takes less time with compiling than without.

    The first process measures once for a machine and a model. A second measurement could decide otherwise, and a stage
    that is run again or resumed has to end with the same weights.

    Args:
        plain: argument of `trial_step` without compiling.
        compiled: argument of `trial_step` with compiling; the first call compiles.
        device: where it runs.
        steps: number of steps of the run.
        trial_step: one step.
        measurements: JSON file of the seconds for a plain step, a compiled step and compiling.
        model_key: names the model in the file.
    """
    plain_seconds, compiled_seconds, compile_seconds = measured_once(
        measurements, device, model_key, lambda: _measure(plain, compiled, device, trial_step)
    )
    return (plain_seconds - compiled_seconds) * steps > compile_seconds


def _measure(plain: Any, compiled: Any, device: torch.device, trial_step: Callable[[Any], None]) -> list[float]:
    """Measure the seconds of a plain step, of a compiled step and of compiling."""
    compile_seconds = _seconds(device, trial_step, compiled)
    best = [float("inf"), float("inf")]
    for _ in range(_ROUNDS):
        for index, model in enumerate((plain, compiled)):
            best[index] = min(best[index], _seconds(device, trial_step, model))
    return [*best, compile_seconds]


def _seconds(device: torch.device, trial_step: Callable[[Any], None], model: Any) -> float:
    synchronize(device)
    start = time.perf_counter()
    trial_step(model)
    synchronize(device)
    return time.perf_counter() - start
