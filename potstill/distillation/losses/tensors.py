"""What every loss shares: shape checks with a clear sentence, masks of real tokens, products in fp32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from potstill.errors import ModelError, SignalError


class SelfAttention(NamedTuple):
    """What one layer's self-attention projects its input to, all heads side by side, each [batch, sequence, width]."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class SentenceVectors(NamedTuple):
    """What one layer says of each row as a whole, each [batch, width]: its first token's state, the mean of all."""

    first: Tensor
    mean: Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """The context in which products of fp32 tensors stay fp32, even inside a caller's autocast."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_same_logits(student: Tensor, teacher: Tensor) -> None:
    """Both are [batch, classes], of the same sizes.

    Raises:
        SignalError: they are not; broadcasting would give a number that means nothing.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise SignalError(
            f"the student's logits are {list(student.shape)} and the teacher's {list(teacher.shape)}; both have to be "
            "[batch, classes] of the same rows and classes: give the student the teacher's labels"
        )


def check_same_rows(student: Tensor, teacher: Tensor, what: str, dimensions: int) -> None:
    """Both have that many dimensions and agree in all but the last.

    Raises:
        SignalError: they do not.
    """
    if student.dim() != dimensions or teacher.dim() != dimensions or student.shape[:-1] != teacher.shape[:-1]:
        raise SignalError(
            f"the student's {what} are {list(student.shape)} and the teacher's {list(teacher.shape)}; both need "
            f"{dimensions} dimensions that agree in all but the last: give both models the same rows and token ids"
        )


def check_same_width(student: Tensor, teacher: Tensor, what: str) -> None:
    """Both have the same last dimension.

    Raises:
        ModelError: they do not.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ModelError(
            f"the student's {what} are {student.shape[-1]} wide and the teacher's {teacher.shape[-1]}; "
            "project the student's with potstill.distillation.losses.hidden.Projections first"
        )


def real_tokens(mask: Tensor, states: Tensor) -> Tensor:
    """[batch, sequence] bool: True on real tokens.

    Args:
        mask: [batch, sequence] attention mask, 0 on padding.
        states: [batch, sequence, ...] that the mask belongs to.

    Raises:
        SignalError: the mask is not [batch, sequence] of these states.
    """
    if mask.shape != states.shape[:2]:
        raise SignalError(
            f"the attention mask is {list(mask.shape)} for states of [batch, sequence] {list(states.shape[:2])}; "
            "give the mask of the same batch"
        )
    return mask != 0


def without_padding(states: Tensor, real: Tensor) -> Tensor:
    """[batch, sequence, width] fp32 states with zeros on padding, so that not even a NaN there reaches a gradient."""
    return states.float().masked_fill(~real.unsqueeze(-1), 0.0)
