"""Record a failed training step for debugging: its rows and token ids, its terms, and the weights before it."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.gold_labels import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_failure(
    folder: Path | None,
    model: PreTrainedModel,
    objective: Objective,
    batches: Sequence[Batch],
    values: Mapping[str, float],
    facts: Mapping[str, Any],
) -> Path:
    """Write a failed step into a folder, replacing an earlier one.

    The folder has `failure.json` with facts and values, `batch-<n>.safetensors` with the arrays of each batch, `model/`
    with the weights before the step as a `save_pretrained` folder, and, if the objective has projections,
    `objective.safetensors` with their weights.

    Args:
        folder: the folder to write; None creates a temporary folder.
        model: the model before the step's update.
        objective: the objective, for its parameters.
        batches: batches of the step.
        values: the step's weighted terms and the norm of its gradients, by name.
        facts: further facts about the step, for JSON.

    Returns:
        The folder.
    """
    target = folder or Path(tempfile.mkdtemp(prefix="potstill-failure-")) / "step"
    with whole_folder(target) as partial:
        for number, batch in enumerate(batches):
            save_file(_arrays(batch), partial / f"batch-{number}.safetensors")
        model.save_pretrained(partial / "model")
        weights = {name: weight.detach().cpu().contiguous() for name, weight in objective.named_parameters()}
        if weights:
            save_file(weights, partial / "objective.safetensors")
        # JSON has neither NaN nor infinity.
        json_values = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        rows = [batch.rows.tolist() for batch in batches]
        write_json(partial / "failure.json", {**facts, "values": json_values, "rows": rows})
        write_manifest(partial)
    return target


def _arrays(batch: Batch) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in values.items()
        if isinstance(value, np.ndarray)
    }
