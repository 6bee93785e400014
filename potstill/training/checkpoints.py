"""Checkpoints from which a run resumes to the bit: weights, optimizer, schedule, position and random state; no pickle.

A checkpoint is a folder `step-<n>` whose manifest is written last. An incomplete checkpoint has no manifest and is
skipped.
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

# How many checkpoints to keep: the newest, and the one before it in case the newest is damaged.
KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write the checkpoint of a step, and remove the oldest ones, and later ones of a run that was not resumed.

    Args:
        folder: folder of all checkpoints of the run.
        step: number of the step.
        tensors: group -> name -> tensor.
        state: further state, for JSON.
    """
    needed = sum(tensor.nbytes for values in tensors.values() for tensor in values.values())
    with whole_folder(folder / f"step-{step:09d}", needed) as partial:
        for group, values in tensors.items():
            save_file(_separate(values), partial / f"{group}.safetensors")
        write_json(partial / "state.json", state)
        write_manifest(partial)
    written = sorted(folder.glob("step-*"))
    position = written.index(folder / f"step-{step:09d}") + 1
    for other in [*written[: max(position - KEEP, 0)], *written[position:]]:
        shutil.rmtree(other)


def _separate(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, such as tied embeddings, which safetensors requires; all are moved to the CPU."""
    separate: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, value in values.items():
        tensor = value.detach().cpu().contiguous()
        separate[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
    return separate


def newest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Load tensors and state of the newest checkpoint that verifies; None if there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify(path)
        except ChecksumError as error:
            say(f"checkpoint skipped: {error}")
            continue
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return tensors, read_json(path / "state.json")
    return None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random state on the CPU and on the training device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
