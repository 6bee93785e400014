"""Combines the predictions of an ensemble's members into those of one teacher, as the task's loss needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.data.tokens.batches import ragged
from potstill.distillation.losses.means import Weights
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.kinds.task_names import TaskKind
from potstill.pretrained.members import Weight

Floats = npt.NDArray[np.float32]


def pooled(members: Sequence[npt.NDArray[Any]], weights: Weights, task: TaskKind) -> npt.NDArray[Any]:
    """Combine the members' logits over a dataset into those of the ensemble at T = 1; see `HeadLoss.mean`.

    Args:
        members: the logits of each member, as `predict_logits` returns them.
        weights: see `Weights`.
        task: determines how logits are combined.

    Returns:
        Logits in fp32, in the same form; the logits of a single member are returned as they are.
    """
    if len(members) == 1:
        return members[0]
    stacked = side_by_side(members)
    if stacked.dtype.kind != "O":
        return _pooled(stacked, weights, task)
    return ragged([_pooled(row[None], weights, task)[0] for row in stacked])


def _pooled(members: npt.NDArray[Any], weights: Weights, task: TaskKind) -> Floats:
    logits: Floats = HEAD_LOSSES[task].mean(torch.from_numpy(members), weights, 1.0).numpy()
    return logits


def side_by_side(members: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Stack the logits of members, each [..., classes], as [..., members, classes].

    Arrays of objects are stacked row by row. The logits of a single member are returned as they are.
    """
    if len(members) == 1:
        return members[0]
    if members[0].dtype.kind != "O":
        return np.stack(members, axis=-2)
    return ragged([np.stack(row, axis=-2) for row in zip(*members, strict=True)])


def ordered(logits: npt.NDArray[Any], order: Sequence[int]) -> npt.NDArray[Any]:
    """Reorder the outputs of logits [..., outputs], also in an array of objects."""
    if logits.dtype.kind != "O":
        return logits[..., list(order)]
    return ragged([values[..., list(order)] for values in logits])


@dataclass(frozen=True)
class Ensemble:
    """The logits of an ensemble's members on a batch.

    Attributes:
        logits: [batch, ..., members, classes].
        weights: see `Weights`.
    """

    logits: Tensor
    weights: tuple[Weight, ...]

    def to(self, device: torch.device) -> Ensemble:
        """Move the logits to a device."""
        return Ensemble(self.logits.to(device), self.weights)
