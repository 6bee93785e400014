"""MiniLMv2's self-attention relations: what tokens are to each other, whatever the models' widths and heads.

Pure functions, for each row the SUM over its real queries, in fp32. For the loss of a batch and for gradient
accumulation see `hidden`. No gradient flows to a teacher.
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
    """The relations of queries with queries, keys with keys and values with values; their sum is MiniLMv2's loss.

    Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers", with its three default relations of weight 1.

    Args:
        student: of the student's last layer.
        teacher: of one of the teacher's layers: the last of a base model, an upper middle one of a large model.
        mask: [batch, sequence].
        heads: relation heads, which divide every width; not the models' own head counts.

    Returns:
        `qq`, `kk` and `vv`, each [batch] sums in nats, in fp32; see `self_attention_relation`.

    Raises:
        ModelError: the relation heads do not divide a width.
        SignalError: rows, tokens or mask differ.
    """
    return {
        "qq": self_attention_relation(student.queries, teacher.queries, mask, heads),
        "kk": self_attention_relation(student.keys, teacher.keys, mask, heads),
        "vv": self_attention_relation(student.values, teacher.values, mask, heads),
    }


def self_attention_relation(student: Tensor, teacher: Tensor, mask: Tensor, heads: int = RELATION_HEADS) -> Tensor:
    """Row-wise sum over the real queries of the mean over relation heads of KL(teacher || student), in nats.

    A relation is softmax(A A^T / sqrt(d)) over the real keys, A being one head's [sequence, d] part of the states
    (Wang et al. 2021). Needs some 4 * batch * heads * sequence^2 fp32 numbers of memory.

    Args:
        student: [batch, sequence, student width] queries, keys or values.
        teacher: [batch, sequence, teacher width], the same of the teacher; no gradient flows to them.
        mask: [batch, sequence].
        heads: relation heads, which divide both widths.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: the relation heads do not divide a width.
        SignalError: rows, tokens or mask differ.
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
    """[batch, heads, sequence, sequence] log-probabilities over the real keys."""
    size = states.shape[-1] // heads
    parts = without_padding(states, real).reshape(*states.shape[:2], heads, size).transpose(1, 2)
    with full_precision(states):
        scores = parts @ parts.transpose(-1, -2) / math.sqrt(size)
        # Finite, not -inf: on padding both logarithms are then finite and their product with probability 0 is 0.
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min / 4)
        return functional.log_softmax(scores, dim=-1)


def check_heads(student: int, teacher: int, heads: int) -> None:
    """Refuse relation heads that do not divide both widths.

    Raises:
        ModelError: names a number that does.
    """
    for owner, width in (("student", student), ("teacher", teacher)):
        if heads < 1 or width % heads:
            common = math.gcd(student, teacher)
            near = max(n for n in range(1, common + 1) if common % n == 0 and n <= max(heads, 1))
            raise ModelError(
                f"{heads} relation heads do not divide the {owner}'s width of {width}; "
                f"set a number that divides {student} and {teacher}, such as {near}"
            )
