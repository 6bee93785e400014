"""The mean of an ensemble's predictions: softened probabilities, averaged at the temperature of the loss.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": the student of an ensemble learns the mean of its
members' probabilities. In a multi-label task the members may know different labels, so that one student learns the
tasks of several teachers; weights are then [members, labels].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.config.base import TaskKind
from potstill.data.tokens.batches import ragged
from potstill.errors import SignalError
from potstill.pretrained.members import Weight

Floats = npt.NDArray[np.float32]
# One number for each member, or one for each member and label; they add up to 1 over the members.
Weights = Sequence[Weight]


def ensemble_logits(members: Tensor, weights: Weights, temperature: float) -> Tensor:
    """Compute logits whose softmax at T is the weighted mean of the members' softmax at T (Hinton et al. 2015).

    They are T * log of that mean. Every loss that softens a teacher's logits at T therefore learns the mean of the
    softened probabilities. The logits differ for each T.

    Args:
        members: [batch, ..., members, classes] logits; no gradient flows to them.
        weights: one weight for each member.
        temperature: T > 0.

    Returns:
        [batch, ..., classes] logits in fp32.

    Raises:
        SignalError: the numbers of members and weights differ.
    """
    return _logits_of_the_mean(members, _weight_tensor(members, weights), temperature)


def ensemble_answers(members: Tensor, weights: Weights, temperature: float, task: TaskKind) -> Tensor:
    """Combine the members' logits into those that a task's loss at T compares with.

    Classes (also of tokens) are combined by `ensemble_logits`. Multi-label tasks combine the two classes yes and no of
    each label, and question answering the tokens of a row as classes, for start and for end. Regression takes the mean.

    Args:
        members: [batch, ..., members, outputs] logits; no gradient flows to them. For question answering [batch,
            sequence, members, 2], minus infinity on padding.
        weights: one weight for each member; in multi-label tasks also one for each member and label.
        temperature: T > 0.
        task: determines how logits are combined.

    Returns:
        [batch, ..., outputs] logits in fp32.

    Raises:
        SignalError: the numbers of members and weights differ.
    """
    if task == "regression":
        return mean_logits(members, weights)
    if task == "multi_label":
        no_and_yes = torch.stack([torch.zeros_like(members), members], dim=-1).transpose(-3, -2)
        mean = _logits_of_the_mean(no_and_yes, _weight_tensor(members, weights).mT.unsqueeze(-1), temperature)
        return mean[..., 1] - mean[..., 0]
    if task == "question_answering":
        _weight_tensor(members, weights)  # checks the number of members
        return ensemble_logits(members.permute(0, 3, 2, 1), weights, temperature).transpose(1, 2)
    return ensemble_logits(members, weights, temperature)


def mean_logits(members: Tensor, weights: Weights) -> Tensor:
    """Average the members' logits, weighted; this mean minimises the squared error to all of them.

    Args:
        members: [batch, ..., members, classes] logits; no gradient flows to them.
        weights: see `Weights`.

    Returns:
        [batch, ..., classes] logits in fp32.

    Raises:
        SignalError: the numbers of members and weights differ.
    """
    return (members.detach().float() * _weight_tensor(members, weights)).sum(dim=-2)


def pooled(members: Sequence[npt.NDArray[Any]], weights: Weights, task: TaskKind) -> npt.NDArray[Any]:
    """Combine the members' logits over a dataset into those of the ensemble at T = 1; see `ensemble_answers`.

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
    if task != "question_answering":
        return _pooled(stacked, weights, task)
    return ragged([_pooled(row[None], weights, task)[0] for row in stacked])


def _pooled(members: npt.NDArray[Any], weights: Weights, task: TaskKind) -> Floats:
    logits: Floats = ensemble_answers(torch.from_numpy(members), weights, 1.0, task).numpy()
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


def _logits_of_the_mean(members: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """T * log of the weighted mean of the members' softmax at T; weights broadcast to [..., members, classes]."""
    log_probabilities = torch.log_softmax(members.detach().float() / temperature, dim=-1)
    return torch.logsumexp(log_probabilities + weights.log(), dim=-2) * temperature


def _weight_tensor(members: Tensor, weights: Weights) -> Tensor:
    """[members, 1] weights, or [members, labels] if they differ between labels, checked against the logits."""
    tensor = torch.tensor(weights, dtype=torch.float32, device=members.device)
    tensor = tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor
    if members.dim() < 3 or members.shape[-2] != len(weights) or tensor.shape[-1] not in (1, members.shape[-1]):
        raise SignalError(
            f"the signals are {list(members.shape)} where [batch, ..., {len(weights)} teachers, classes] are needed; "
            "run the signals stage again"
        )
    return tensor
