"""What is kept of a step that went wrong, to look into it: its rows and token ids, its terms, the weights before it."""

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


def keep_failure(
    folder: Path | None,
    model: PreTrainedModel,
    objective: Objective,
    batches: Sequence[Batch],
    values: Mapping[str, float],
    about: Mapping[str, Any],
) -> Path:
    """Write a failed step into a folder, in the place of an earlier one.

    `failure.json` has the values and what is known of the step; `batch-<n>.safetensors` the arrays of each batch;
    `model/` the weights the step started from, as a `save_pretrained` folder; `objective.safetensors` the weights of
    projections, where there are some.

    Args:
        folder: None: a new one for temporary files.
        model: before the step's update.
        objective: its parameters.
        batches: of the step.
        values: the step's weighted terms and the norm of its gradients, by name.
        about: JSON-able facts.

    Returns:
        The folder.
    """
    there = folder or Path(tempfile.mkdtemp(prefix="potstill-failure-")) / "step"
    with whole_folder(there) as beside:
        for number, batch in enumerate(batches):
            save_file(_arrays(batch), beside / f"batch-{number}.safetensors")
        model.save_pretrained(beside / "model")
        weights = {name: weight.detach().cpu().contiguous() for name, weight in objective.named_parameters()}
        if weights:
            save_file(weights, beside / "objective.safetensors")
        # JSON has no NaN and no infinity.
        found = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        rows = [batch.rows.tolist() for batch in batches]
        write_json(beside / "failure.json", {**about, "values": found, "rows": rows})
        write_manifest(beside)
    return there


def _arrays(batch: Batch) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in values.items()
        if isinstance(value, np.ndarray)
    }
