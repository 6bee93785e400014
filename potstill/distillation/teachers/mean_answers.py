"""The mean of several teachers' answers: their softened probabilities, averaged at the temperature of the loss.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": the student of an ensemble learns the mean of its
members' probabilities. Of several labels each may have teachers of its own: those of several tasks make one student of
all of them. Weights then are [members, labels].
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
# One for each member, or for each member one for each label; over the members they add up to 1.
Weights = Sequence[Weight]


def ensemble_logits(members: Tensor, weights: Weights, temperature: float) -> Tensor:
    """T * log of the weighted mean of the members' softmax at T: the logits that have it as their own softmax at T.

    So every loss that softens a teacher's logits at T learns the mean of the softened probabilities. At another T they
    are others.

    Args:
        members: [batch, ..., members, classes] logits; no gradient flows to them.
        weights: see `Weights`; of a member's alone.
        temperature: T > 0.

    Returns:
        [batch, ..., classes] in fp32.

    Raises:
        SignalError: there are not as many members as weights.
    """
    return _logits_of_the_mean(members, _along(members, weights), temperature)


def ensemble_answers(members: Tensor, weights: Weights, temperature: float, task: TaskKind) -> Tensor:
    """The logits that stand for an ensemble in a task's loss at T.

    Args:
        members: [batch, ..., members, outputs] logits; no gradient flows to them. Of spans [batch, sequence, members,
            2], minus infinity on padding.
        weights: see `Weights`; for each label of several alone.
        temperature: T > 0.
        task: one class of several (tokens too): `ensemble_logits`; several labels: the same of each label's yes and no;
            numbers: their mean; spans: `ensemble_logits` of the choice among a row's tokens, of start and of end.

    Returns:
        [batch, ..., outputs] in fp32.

    Raises:
        SignalError: there are not as many members as weights.
    """
    if task == "regression":
        return mean_logits(members, weights)
    if task == "multi_label":
        both = torch.stack([torch.zeros_like(members), members], dim=-1).transpose(-3, -2)
        found = _logits_of_the_mean(both, _along(members, weights).mT.unsqueeze(-1), temperature)
        return found[..., 1] - found[..., 0]
    if task == "question_answering":
        _along(members, weights)
        return ensemble_logits(members.permute(0, 3, 2, 1), weights, temperature).transpose(1, 2)
    return ensemble_logits(members, weights, temperature)


def mean_logits(members: Tensor, weights: Weights) -> Tensor:
    """The weighted mean of the members' logits, which a squared error is nearest to.

    Args:
        members: [batch, ..., members, classes]; no gradient flows to them.
        weights: see `Weights`.

    Returns:
        [batch, ..., classes] in fp32.

    Raises:
        SignalError: there are not as many members as weights.
    """
    return (members.detach().float() * _along(members, weights)).sum(dim=-2)


def pooled(members: Sequence[npt.NDArray[Any]], weights: Weights, task: TaskKind) -> npt.NDArray[Any]:
    """What an ensemble answers: the log of its mean probabilities, as logits; see `ensemble_answers`.

    Args:
        members: the logits of each, as `predict_logits` gives them.
        weights: see `Weights`.
        task: what the logits are.

    Returns:
        Logits in the form of a member's, in fp32; of one member, its own.
    """
    if len(members) == 1:
        return members[0]
    together = side_by_side(members)
    if task != "question_answering":
        return _pooled(together, weights, task)
    return ragged([_pooled(sides[None], weights, task)[0] for sides in together])


def _pooled(members: npt.NDArray[Any], weights: Weights, task: TaskKind) -> Floats:
    found: Floats = ensemble_answers(torch.from_numpy(members), weights, 1.0, task).numpy()
    return found


def side_by_side(members: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Logits of several members, each [..., classes], as [..., members, classes], in objects too; of one, its own."""
    if len(members) == 1:
        return members[0]
    if members[0].dtype.kind != "O":
        return np.stack(members, axis=-2)
    return ragged([np.stack(sides, axis=-2) for sides in zip(*members, strict=True)])


def ordered(logits: npt.NDArray[Any], order: Sequence[int]) -> npt.NDArray[Any]:
    """Logits with the outputs in that order, in objects too."""
    if logits.dtype.kind != "O":
        return logits[..., list(order)]
    return ragged([values[..., list(order)] for values in logits])


@dataclass(frozen=True)
class Ensemble:
    """What the members of an ensemble say on a batch.

    Attributes:
        logits: [batch, ..., members, classes].
        weights: see `Weights`.
    """

    logits: Tensor
    weights: tuple[Weight, ...]

    def at(self, temperature: float, task: TaskKind = "single_label") -> Tensor:
        """See `ensemble_answers`."""
        return ensemble_answers(self.logits, self.weights, temperature, task)

    def to(self, device: torch.device) -> Ensemble:
        """The same on a device."""
        return Ensemble(self.logits.to(device), self.weights)


def _logits_of_the_mean(members: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """T * log of the mean of the softmax at T of [..., members, classes], by weights that spread over those."""
    log_probabilities = torch.log_softmax(members.detach().float() / temperature, dim=-1)
    return torch.logsumexp(log_probabilities + weights.log(), dim=-2) * temperature


def _along(members: Tensor, weights: Weights) -> Tensor:
    """The weights as [members, 1], or of each label [members, labels]: the members' and the last dimension."""
    found = torch.tensor(weights, dtype=torch.float32, device=members.device)
    found = found.unsqueeze(-1) if found.dim() == 1 else found
    if members.dim() < 3 or members.shape[-2] != len(weights) or found.shape[-1] not in (1, members.shape[-1]):
        raise SignalError(
            f"the signals are {list(members.shape)} where [batch, ..., {len(weights)} teachers, classes] are needed; "
            "run the signals stage again"
        )
    return found
