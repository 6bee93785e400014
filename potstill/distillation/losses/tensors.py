"""Helpers of all losses: shape checks with clear error messages, masks of real tokens, fp32 matrix products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from potstill.errors import ModelError, SignalError


class SelfAttention(NamedTuple):
    """Queries, keys and values of one layer's self-attention, each [batch, sequence, width], all heads concatenated."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class SentenceVectors(NamedTuple):
    """Vectors of whole rows from one layer, each [batch, width]: the first token's state, and the mean over tokens."""

    first: Tensor
    mean: Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Context manager in which products of fp32 tensors stay fp32, even inside a caller's autocast."""
    return torch.autocast(tensor.device.type, enabled=False)


def check_same_logits(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that are not [batch, classes] of the same sizes, which broadcasting would accept.

    Raises:
        SignalError: the shapes differ or are of another form.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise SignalError(
            f"the student's logits are {list(student.shape)} and the teacher's {list(teacher.shape)}; both have to be "
            "[batch, classes] of the same rows and classes: give the student the teacher's labels"
        )


def check_same_rows(student: Tensor, teacher: Tensor, what: str, dimensions: int) -> None:
    """Refuse tensors that do not agree in all dimensions but the last.

    Args:
        student: the student's tensor.
        teacher: the teacher's tensor.
        what: name of the tensors for the error message.
        dimensions: the number of dimensions that both must have.

    Raises:
        SignalError: the numbers of dimensions, or the sizes of all but the last, differ.
    """
    if student.dim() != dimensions or teacher.dim() != dimensions or student.shape[:-1] != teacher.shape[:-1]:
        raise SignalError(
            f"the student's {what} are {list(student.shape)} and the teacher's {list(teacher.shape)}; both need "
            f"{dimensions} dimensions that agree in all but the last: give both models the same rows and token ids"
        )


def check_same_width(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse tensors whose last dimensions differ.

    Raises:
        ModelError: they differ.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ModelError(
            f"the student's {what} are {student.shape[-1]} wide and the teacher's {teacher.shape[-1]}; "
            "project the student's with potstill.distillation.losses.hidden.Projections first"
        )


def real_tokens(mask: Tensor, states: Tensor) -> Tensor:
    """Return a boolean mask [batch, sequence] that is True on real tokens.

    Args:
        mask: [batch, sequence] attention mask, 0 on padding.
        states: [batch, sequence, ...] states of the same batch.

    Raises:
        SignalError: the mask has another shape than the batch.
    """
    if mask.shape != states.shape[:2]:
        raise SignalError(
            f"the attention mask is {list(mask.shape)} for states of [batch, sequence] {list(states.shape[:2])}; "
            "give the mask of the same batch"
        )
    return mask != 0


def without_padding(states: Tensor, real: Tensor) -> Tensor:
    """Set states [batch, sequence, width] to 0 on padding, in fp32, so that not even a NaN there reaches a gradient."""
    return states.float().masked_fill(~real.unsqueeze(-1), 0.0)
