"""Device and number format: what is there, and what is faster here, measured."""

from __future__ import annotations

import platform
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from potstill.artifacts import read_json, write_json
from potstill.compute.distributed import here, local_device
from potstill.errors import ToolError

Precision = Literal["fp32", "bf16", "fp16"]

# How much faster 16-bit products have to be before they are worth their rounding; also keeps the choice stable on a
# noisy machine.
WORTH = 1.3
# A product that takes longer, and longer than in fp32, is not timed again.
_SLOW_SECONDS = 0.3


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then CPU; of several processes each takes the GPU of its number on its machine.

    Raises:
        ToolError: the wanted device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, found in there.items() if found)
    if not there[wanted]:
        raise ToolError(f"project.device is {wanted}, which torch does not find on this machine; set it to auto")
    return torch.device(wanted) if wanted != "cuda" else local_device()


def choose_precision(
    wanted: str, device: torch.device, hidden: int, intermediate: int, remembered: Path
) -> tuple[Precision, str]:
    """The number format of matrix products, and why.

    `auto` times the model's largest product (1,024 tokens x hidden x intermediate) in fp32 and bf16, the best of
    several alternating runs each, and takes bf16 where it is `WORTH` times faster. Once for a machine and a size: a
    second measurement could fall on the other side, and a stage that is run again or goes on after a kill has to end
    with the same weights.

    Args:
        wanted: `auto`, or the format to take.
        device: where the products run.
        hidden: width of the model.
        intermediate: width of its feed-forward layers.
        remembered: JSON file of earlier measurements, made or extended by this one.
    """
    if wanted != "auto":
        return wanted, "set in params"  # type: ignore[return-value]
    fp32, bf16 = here().from_first(lambda: measured_rates(device, hidden, intermediate, remembered))
    chosen: Precision = "bf16" if bf16 >= WORTH * fp32 else "fp32"
    return chosen, f"measured {fp32:.0f} GFLOP/s in fp32, {bf16:.0f} in bf16"


def measured_rates(device: torch.device, hidden: int, intermediate: int, remembered: Path) -> list[float]:
    """GFLOP/s of the model's largest product in fp32 and in bf16, measured now or the first time."""
    key = machine(device) + f", {hidden} x {intermediate}"
    known: dict[str, list[float]] = read_json(remembered) if remembered.exists() else {}
    if key not in known:
        known[key] = list(_rate(device, hidden, intermediate))
        write_json(remembered, known)
    return known[key]


def product_size(config: Any) -> tuple[int, int]:
    """Width of a model and of its feed-forward layers, by its config: what `choose_precision` times."""
    hidden = int(config.hidden_size)
    return hidden, int(getattr(config, "intermediate_size", 4 * hidden))


def machine(device: torch.device) -> str:
    """What a measurement depends on beside what is measured."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.node()}, {device.type} {kind}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context for a forward pass in that format."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _rate(device: torch.device, hidden: int, intermediate: int, tokens: int = 1024) -> tuple[float, float]:
    """GFLOP/s of the product in fp32 and bf16. Uses a generator of its own: the training seed is not touched."""
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(tokens, hidden, generator=random), torch.randn(hidden, intermediate, generator=random)
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
                # A format that the processor only emulates: twenty more such products would take half a minute.
                slow.add(index)
                best[index] = max(best[index], work / warm_up)
                continue
            best[index] = max(best[index], 3 * work / _seconds(a, b, 3, device))
    return best[0], best[1]


def _seconds(a: torch.Tensor, b: torch.Tensor, times: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(times):
        torch.mm(a, b)
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
