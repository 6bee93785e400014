"""Losses on attention maps: pure functions that return, for each row, the sum over its real queries, in fp32.

Shapes: maps are [batch, heads, queries, keys]; the mask is [batch, sequence], 0 on padding, for queries and keys alike.
Only real queries and real keys count. `hidden` explains how these sums become the loss of a batch. No gradient flows
to the teacher. If the models have different numbers of heads, `relations` is the better choice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from potstill.distillation.losses.tensors import full_precision, real_tokens, without_padding
from potstill.errors import ModelError, SignalError

# Lower bound of a probability before its logarithm is taken.
FLOOR = 1e-30


def attention_scores(queries: Tensor, keys: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Compute attention scores before the softmax, q k^T / sqrt(head size) (Vaswani et al. 2017).

    They are computed from the layer's projections, so that the implementation of attention and its dropout do not
    matter. They equal the model's own scores if its attention is plain (`families.Family.plain_attention`).

    Args:
        queries: [batch, sequence, width], all heads concatenated.
        keys: [batch, sequence, width], all heads concatenated.
        mask: [batch, sequence], 0 on padding.
        heads: number of attention heads.

    Returns:
        [batch, heads, sequence, sequence] scores in fp32; 0 where the query or the key is padding.

    Raises:
        SignalError: the mask has another shape than the batch.
    """
    real = real_tokens(mask, queries)
    size = queries.shape[-1] // heads
    q, k = (
        without_padding(part, real).reshape(*part.shape[:2], heads, size).transpose(1, 2) for part in (queries, keys)
    )
    with full_precision(queries):
        scores: Tensor = q @ k.transpose(-1, -2) / math.sqrt(size)
    return scores


def attention_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of attention scores over the real keys.

    Args:
        scores: [batch, heads, sequence, sequence].
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch, heads, sequence, sequence] probabilities in fp32.
    """
    padding = (mask == 0)[:, None, None, :]
    # Finite instead of -inf, so that a row without real keys gives no NaN.
    return torch.softmax(scores.float().masked_fill(padding, torch.finfo(torch.float32).min / 4), dim=-1)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor, *, average_heads: bool = False) -> Tensor:
    """Row-wise sum over the real queries of the mean over heads and real keys of (student - teacher)^2.

    TinyBERT's attention loss (Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding"), which
    takes scores before the softmax; unlike there, padding does not count. Probabilities work too, but give small
    losses.

    Args:
        student: [batch, heads, sequence, sequence] attention scores or probabilities.
        teacher: [batch, heads, sequence, sequence]; no gradient flows to it.
        mask: [batch, sequence], 0 on padding.
        average_heads: compare means over the heads, for models with different numbers of heads.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: the numbers of heads differ and `average_heads` is not set.
        SignalError: the shapes of maps or mask differ.
    """
    student_maps, teacher_maps, real = _maps(student, teacher, mask, average_heads)
    keys = real.sum(dim=-1).clamp(min=1)
    return (student_maps - teacher_maps).square().sum(dim=(2, 3)).mean(dim=1) / keys


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor, *, average_heads: bool = False) -> Tensor:
    """Row-wise sum over the real queries of the mean over heads of KL(teacher || student) over the real keys, in nats.

    MiniLM's attention transfer (Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
    Compression of Pre-Trained Transformers"). Probabilities are scaled to add up to 1 over the real keys. Compute the
    student's maps without attention dropout: transformers returns maps after dropout, where a dropped key has
    probability 0.

    Args:
        student: [batch, heads, sequence, sequence] attention probabilities.
        teacher: [batch, heads, sequence, sequence]; no gradient flows to it.
        mask: [batch, sequence], 0 on padding.
        average_heads: compare means over the heads, for models with different numbers of heads.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: the numbers of heads differ and `average_heads` is not set.
        SignalError: the shapes of maps or mask differ.
    """
    student_maps, teacher_maps, _ = _maps(student, teacher, mask, average_heads)
    student_maps = _normalized(student_maps)
    teacher_maps = _normalized(teacher_maps)
    divergence = teacher_maps * (teacher_maps.clamp(min=FLOOR).log() - student_maps.clamp(min=FLOOR).log())
    return divergence.sum(dim=(2, 3)).mean(dim=1)


def _normalized(probabilities: Tensor) -> Tensor:
    """Scale probabilities to add up to 1 over the keys; rows of zeros stay zero."""
    return probabilities / probabilities.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def _maps(student: Tensor, teacher: Tensor, mask: Tensor, average_heads: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Check both maps; return them in fp32, 0 on padding, and the mask of real tokens [batch, sequence]."""
    for owner, maps in (("student", student), ("teacher", teacher)):
        if maps.dim() != 4 or maps.shape[2] != maps.shape[3]:
            raise SignalError(
                f"the {owner}'s attention maps are {list(maps.shape)}; they have to be [batch, heads, sequence, "
                "sequence]: load the model with attn_implementation eager and output_attentions"
            )
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise SignalError(
            f"the student's attention maps are {list(student.shape)} and the teacher's {list(teacher.shape)}; "
            "give both models the same rows and token ids"
        )
    if not average_heads and student.shape[1] != teacher.shape[1]:
        raise ModelError(
            f"the student has {student.shape[1]} attention heads and the teacher {teacher.shape[1]}; "
            "set average_heads, or use self-attention relations, which need no equal counts"
        )
    real = real_tokens(mask, student.transpose(1, 2))
    counted = real[:, None, :, None] & real[:, None, None, :]
    student_maps = torch.where(counted, student.float(), 0.0)
    teacher_maps = torch.where(counted, teacher.detach().float(), 0.0)
    if average_heads:
        student_maps = student_maps.mean(dim=1, keepdim=True)
        teacher_maps = teacher_maps.mean(dim=1, keepdim=True)
    return student_maps, teacher_maps, real
