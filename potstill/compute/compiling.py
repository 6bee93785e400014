"""`torch.compile` where it pays: measured once on a machine, on a GPU only."""

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

from potstill.artifacts import read_json, write_json
from potstill.compute.distributed import here
from potstill.compute.precision import machine, wait
from potstill.config.base import Switch
from potstill.errors import ModelError, ToolError

# A run of fewer steps does not win back what compiling takes, which is about a minute.
FEWEST_STEPS = 1000
_ROUNDS = 5


def choose_compiled(
    wanted: Switch,
    model: nn.Module,
    device: torch.device,
    *,
    hindrance: str | None,
    steps: int,
    try_out: Callable[[nn.Module], None],
    remembered: Path | None,
) -> nn.Module:
    """The model, or a compiled form of it with the same weights.

    `auto` compiles on a GPU, where a run is long enough and the measurement says that it ends earlier for it.

    Args:
        wanted: of params.
        model: stays as it is.
        device: of the run.
        hindrance: why this run's model cannot be compiled.
        steps: of the run.
        try_out: a forward and a backward pass, without consequences.
        remembered: JSON file of earlier measurements, made or extended by this one; None: measure each time.

    Raises:
        ModelError: it is wanted, and something is in the way.
        ToolError: it is wanted, and this machine has no compiler.
    """
    if wanted is False or (wanted == "auto" and (device.type != "cuda" or hindrance or steps < FEWEST_STEPS)):
        return model
    if wanted is True and hindrance is not None:
        raise ModelError(f"compile is true, but {hindrance}; set compile to auto or false")
    # The same for all processes of a run: what one of them waits for, the others have to do.
    missing = next(filter(None, here().gather(_missing_tool(device))), None)
    if missing is not None:
        if wanted is True:
            raise ToolError(f"compile is true, but this machine has no {missing}; install one, or set compile to auto")
        return model
    compiled: nn.Module = torch.compile(model, dynamic=True)  # type: ignore[assignment]
    if wanted is True:
        return compiled
    sizes = {name: getattr(model.config, name, None) for name in ("model_type", "hidden_size", "num_hidden_layers")}
    worth = here().from_first(lambda: pays(model, compiled, device, steps, try_out, remembered, str(sizes)))
    return compiled if worth else model


def _missing_tool(device: torch.device) -> str | None:
    """What torch's compiler needs on such a device and does not find."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    names = [os.environ[name] for name in ("CXX", "CC") if name in os.environ] or ["g++", "clang++", "gcc", "clang"]
    return None if any(shutil.which(name) for name in names) else "C++ compiler"


def pays(
    plain: Any,
    compiled: Any,
    device: torch.device,
    steps: int,
    try_out: Callable[[Any], None],
    remembered: Path | None,
    what: str,
) -> bool:
    """Whether that many steps take less time with compiling than without.

    Measured once for a machine and a model, by the first of several processes: a stage that is run again or goes on
    after a kill has to end with the same weights.

    Args:
        plain: what `try_out` is called with for the one time,
        compiled: and for the other; its first call compiles.
        device: where it runs.
        steps: of the run.
        try_out: one step.
        remembered: JSON file of the seconds of a plain step, of a compiled one, and of compiling.
        what: the model, in the file.
    """
    key = f"{machine(device)}, {what}"
    known: dict[str, list[float]] = read_json(remembered) if remembered is not None and remembered.exists() else {}
    if key not in known:
        compiling = _seconds(device, try_out, compiled)
        best = [float("inf"), float("inf")]
        for _ in range(_ROUNDS):
            for place, contender in enumerate((plain, compiled)):
                best[place] = min(best[place], _seconds(device, try_out, contender))
        known[key] = [*best, compiling]
        if remembered is not None:
            write_json(remembered, known)
    before, after, compiling = known[key]
    return (before - after) * steps > compiling


def _seconds(device: torch.device, try_out: Callable[[Any], None], contender: Any) -> float:
    wait(device)
    start = time.perf_counter()
    try_out(contender)
    wait(device)
    return time.perf_counter() - start
