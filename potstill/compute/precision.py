"""The choice of a device and a number format: by what this machine has, and by measurement."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from potstill.artifacts import read_json, write_json
from potstill.compute.distributed import current_world, local_device
from potstill.errors import ToolError

Precision = Literal["fp32", "bf16", "fp16"]

# 16-bit products have to be this much faster to be worth their rounding. The margin also keeps the choice stable on a
# noisy machine.
MIN_SPEEDUP = 1.3
# A format whose product takes longer than this, and longer than in fp32, is not timed again.
_SLOW_SECONDS = 0.3


def choose_device(setting: str) -> torch.device:
    """Choose a device: `auto` prefers CUDA to MPS to CPU; each of several processes takes the GPU of its local rank.

    Raises:
        ToolError: this machine does not have the device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(name for name, exists in available.items() if exists) if setting == "auto" else setting
    if not available[name]:
        raise ToolError(f"project.device is {name}, which torch does not find on this machine; set it to auto")
    return local_device() if name == "cuda" else torch.device(name)


def choose_precision(
    setting: str, device: torch.device, hidden: int, intermediate: int, measurements: Path
) -> tuple[Precision, str]:
    """Choose the number format of matrix products, and say why.

    `auto` times the model's largest product (1,024 tokens x hidden x intermediate) in fp32 and bf16, the best of
    several alternating runs, and chooses bf16 if it is `MIN_SPEEDUP` times faster. It measures once for a machine and a
    size: a second measurement could decide otherwise, and a stage that is run again or resumed has to end with the
    same weights.

    Args:
        setting: `auto`, or the format.
        device: where the products run.
        hidden: width of the model.
        intermediate: width of its feed-forward layers.
        measurements: JSON file of earlier measurements, created or extended by this one.
    """
    if setting != "auto":
        return setting, "set in params"  # type: ignore[return-value]
    fp32, bf16 = current_world().run_on_first(lambda: measured_rates(device, hidden, intermediate, measurements))
    precision: Precision = "bf16" if bf16 >= MIN_SPEEDUP * fp32 else "fp32"
    return precision, f"measured {fp32:.0f} GFLOP/s in fp32, {bf16:.0f} in bf16"


def measured_rates(device: torch.device, hidden: int, intermediate: int, measurements: Path) -> list[float]:
    """Return the GFLOP/s of the model's largest product in fp32 and in bf16, measured unless the file has them."""
    name = f"{hidden} x {intermediate}"
    return measured_once(measurements, device, name, lambda: list(_rate(device, hidden, intermediate)))


def measured_once(
    measurements: Path | None, device: torch.device, name: str, measure: Callable[[], list[float]]
) -> list[float]:
    """Read a measurement of this machine from a file; without one, measure and add it to the file, if there is one."""
    key = f"{machine_key(device)}, {name}"
    measured: dict[str, list[float]] = {}
    if measurements is not None and measurements.exists():
        measured = read_json(measurements)
    if key not in measured:
        measured[key] = measure()
        if measurements is not None:
            write_json(measurements, measured)
    return measured[key]


def product_size(config: Any) -> tuple[int, int]:
    """Read the width of a model and of its feed-forward layers from its config, for `choose_precision`."""
    hidden = int(config.hidden_size)
    return hidden, int(getattr(config, "intermediate_size", 4 * hidden))


def machine_key(device: torch.device) -> str:
    """Describe the machine, device and torch version that a measurement is valid for."""
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.node()}, {device.type} {model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context for a forward pass in a number format."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _rate(device: torch.device, hidden: int, intermediate: int) -> tuple[float, float]:
    """Measure the GFLOP/s of the product in fp32 and bf16; a separate generator leaves the training seed alone."""
    generator = torch.Generator().manual_seed(0)
    tokens = 1024
    left = torch.randn(tokens, hidden, generator=generator)
    right = torch.randn(hidden, intermediate, generator=generator)
    factors = [(left.to(device, dtype), right.to(device, dtype)) for dtype in (torch.float32, torch.bfloat16)]
    work = 2 * tokens * hidden * intermediate / 1e9
    best = [0.0, 0.0]
    slow: set[int] = set()
    for _ in range(6):
        for index, (a, b) in enumerate(factors):
            if index in slow:
                continue
            warm_up = _seconds(a, b, 1, device)
            if warm_up > _SLOW_SECONDS and work / warm_up < best[0]:
                # The processor only emulates this format: twenty more such products would take half a minute.
                slow.add(index)
                best[index] = max(best[index], work / warm_up)
                continue
            best[index] = max(best[index], 3 * work / _seconds(a, b, 3, device))
    return best[0], best[1]


def _seconds(a: torch.Tensor, b: torch.Tensor, times: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(times):
        torch.mm(a, b)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
