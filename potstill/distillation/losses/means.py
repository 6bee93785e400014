"""The mean of several teachers' predictions: softened probabilities, averaged at the temperature of the loss.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": the student of an ensemble learns the mean of its
members' probabilities. In a multi-label task the members may know different labels, so that one student learns the
tasks of several teachers; weights are then [members, labels].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from potstill.errors import SignalError
from potstill.pretrained.members import Weight

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
    return logits_of_the_mean(members, weight_tensor(members, weights), temperature)


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
    return (members.detach().float() * weight_tensor(members, weights)).sum(dim=-2)


def logits_of_the_mean(members: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Compute T * log of the weighted mean of softmax at T; weights broadcast to [..., members, classes]."""
    log_probabilities = torch.log_softmax(members.detach().float() / temperature, dim=-1)
    return torch.logsumexp(log_probabilities + weights.log(), dim=-2) * temperature


def weight_tensor(members: Tensor, weights: Weights) -> Tensor:
    """Return weights [members, 1], or [members, labels] if they differ between labels, checked against the logits."""
    tensor = torch.tensor(weights, dtype=torch.float32, device=members.device)
    tensor = tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor
    if members.dim() < 3 or members.shape[-2] != len(weights) or tensor.shape[-1] not in (1, members.shape[-1]):
        raise SignalError(
            f"the signals are {list(members.shape)} where [batch, ..., {len(weights)} teachers, classes] are needed; "
            "run the signals stage again"
        )
    return tensor
