"""MiniLMv2's self-attention relations, which compare models of different widths and numbers of heads.

Pure functions that return, for each row, the sum over its real queries, in fp32. `hidden` explains how these sums
become the loss of a batch. No gradient flows to the teacher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import (
    SelfAttention,
    check_same_rows,
    full_precision,
    real_tokens,
    without_padding,
)
from potstill.errors import ModelError

RELATION_HEADS = 48


def self_attention_relations(
    student: SelfAttention, teacher: SelfAttention, mask: Tensor, heads: int = RELATION_HEADS
) -> dict[str, Tensor]:
    """Compute MiniLMv2's losses on the relations of queries, of keys and of values; their sum is its training loss.

    Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers", with its three default relations of weight 1.

    Args:
        student: projections of the student's last layer.
        teacher: projections of a layer of the teacher: the last one of a base model, an upper middle one of a large
            model.
        mask: [batch, sequence], 0 on padding.
        heads: number of relation heads, which divides every width; independent of the models' attention heads.

    Returns:
        `qq`, `kk` and `vv`, each [batch] sums in nats, in fp32; see `self_attention_relation`.

    Raises:
        ModelError: the number of relation heads does not divide a width.
        SignalError: the numbers of rows or tokens differ.
    """
    projections = zip(("qq", "kk", "vv"), student, teacher, strict=True)
    return {
        name: self_attention_relation(student_states, teacher_states, mask, heads)
        for name, student_states, teacher_states in projections
    }


def self_attention_relation(student: Tensor, teacher: Tensor, mask: Tensor, heads: int = RELATION_HEADS) -> Tensor:
    """Sum KL(teacher || student), averaged over relation heads, over the real queries of each row, in nats.

    A relation is softmax(A A^T / sqrt(d)) over the real keys, A being one head's [sequence, d] part of the states
    (Wang et al. 2021). Takes the memory of about 4 * batch * heads * sequence^2 fp32 numbers.

    Args:
        student: [batch, sequence, student width] queries, keys or values.
        teacher: [batch, sequence, teacher width], the same projection of the teacher; no gradient flows to it.
        mask: [batch, sequence], 0 on padding.
        heads: number of relation heads, which divides both widths.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: the number of relation heads does not divide a width.
        SignalError: the numbers of rows or tokens differ.
    """
    check_same_rows(student, teacher, "queries, keys or values", 3)
    check_heads(student.shape[-1], teacher.shape[-1], heads)
    real = real_tokens(mask, student)
    with torch.no_grad():
        log_teacher = _log_relation(teacher, real, heads)
    log_student = _log_relation(student, real, heads)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence.mean(dim=1).masked_fill(~real, 0.0).sum(dim=-1)


def _log_relation(states: Tensor, real: Tensor, heads: int) -> Tensor:
    """Compute log-probabilities over the real keys [batch, heads, sequence, sequence]."""
    size = states.shape[-1] // heads
    parts = without_padding(states, real).reshape(*states.shape[:2], heads, size).transpose(1, 2)
    with full_precision(states):
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(size)
        # Finite instead of -inf: on padding both logarithms are finite, so their product with probability 0 is 0.
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min / 4)
        return functional.log_softmax(scores, dim=-1)


def check_heads(student: int, teacher: int, heads: int) -> None:
    """Refuse a number of relation heads that does not divide both widths.

    Args:
        student: width of the student's projections.
        teacher: width of the teacher's projections.
        heads: number of relation heads.

    Raises:
        ModelError: it does not divide them; the message suggests a number that does.
    """
    for owner, width in (("student", student), ("teacher", teacher)):
        if heads < 1 or width % heads:
            common = math.gcd(student, teacher)
            suggestion = max(n for n in range(1, common + 1) if common % n == 0 and n <= max(heads, 1))
            raise ModelError(
                f"{heads} relation heads do not divide the {owner}'s width of {width}; "
                f"set a number that divides {student} and {teacher}, such as {suggestion}"
            )
