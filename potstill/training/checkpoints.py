"""Checkpoints that resume to the bit: weights, optimiser, schedule, position and random state; no pickle.

A checkpoint is a folder `step-<n>` whose manifest is written last; one that was cut short has none and is passed over.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from potstill.artifacts import read_json, verify, whole_folder, write_json, write_manifest
from potstill.errors import ChecksumError
from potstill.progress import say

# The newest and the one before it, in case the newest was damaged.
KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write checkpoint `step`: groups of tensors and a JSON-able state."""
    with whole_folder(folder / f"step-{step:09d}") as beside:
        for group, values in tensors.items():
            save_file(_separate(values), beside / f"{group}.safetensors")
        write_json(beside / "state.json", state)
        write_manifest(beside)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def _separate(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, one that shares another's memory (tied embeddings) as a copy: the format asks for it."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in values.items():
        tensor = value.detach().cpu().contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def newest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest checkpoint that verifies, or None."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify(path)
        except ChecksumError as error:
            say(f"checkpoint passed over: {error}")
            continue
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return tensors, read_json(path / "state.json")
    return None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's random state, on the CPU and on the training device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
